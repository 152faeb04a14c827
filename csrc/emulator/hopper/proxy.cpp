#include "emulator/hopper/proxy.h"

#include <algorithm>
#include <string>

#include "emulator/hopper/state.h"
#include "emulator/memory/memory.h"
#include "emulator/ptx/barrier.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {

void check_proxy(const Actor& actor, const void* address, size_t bytes, Site site, const char* operation,
                 const char* verb) {
  const auto* at = static_cast<const unsigned char*>(address);
  Id seen = ~Id{0};
  Epoch seen_epoch = 0;
  for (size_t byte = 0; byte < bytes; byte += 4) {
    Id writer = 0;
    Epoch epoch = 0;
    if (!last_writer(at + byte, writer, epoch) || (writer == seen && epoch == seen_epoch)) continue;
    seen = writer;
    seen_epoch = epoch;
    if (writer >= resident->threads.size()) continue;  // written by the proxy itself
    if (actor.clock[writer] < epoch) continue;         // a race, which is reported as such
    const std::vector<Epoch>& fences = state().threads[writer].fences.epochs;
    const auto fence = std::lower_bound(fences.begin(), fences.end(), epoch);
    if (fence != fences.end() && *fence <= actor.clock[writer]) continue;
    const Thread& thread = resident->threads[writer];
    report(Kind::asynchronous, site,
           std::string(operation) + " " + verb + " shared memory that thread " +
               std::to_string(thread.index) + " of block " + std::to_string(thread.block->index.x) +
               " wrote: between the write and the barrier that tells of it, fence_async_proxy is missing");
    return;
  }
}

}  // namespace tilewright::emulator

namespace tilewright::ptx {

void fence_async_proxy() {
  using namespace emulator;
  std::vector<Epoch>& fences = state().threads[current->id].fences.epochs;
  const Epoch now = current->clock[current->id];
  if (fences.empty() || fences.back() != now) fences.push_back(now);
  tick(*current);  // so that later writes are told from earlier ones
}

}  // namespace tilewright::ptx
