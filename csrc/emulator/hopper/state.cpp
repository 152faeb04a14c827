#include "emulator/hopper/state.h"

#include <algorithm>
#include <string>

#include "emulator/ptx/address.h"
#include "emulator/report.h"

namespace tilewright::emulator {
namespace {

HopperState instance;

bool in_use(const Group& group) {
  return instance.group == group.number;
}

void group_end(Group& group) {
  if (!in_use(group)) return;
  const bool ended = std::all_of(group.threads.begin(), group.threads.end(),
                                 [](const Thread& thread) { return thread.finished; });
  if (ended) {  // otherwise the launch was given up, and all is in a mess anyway
    finish_copies();
    check_multiplies_at_end();
    for (Block& block : group.blocks) {
      const OnBehalf first(block.first);
      check_mbarriers_at_end(block);
      check_uses_at_end(block);
    }
  }
  instance = {};
}

void thread_end(Thread& thread) {
  if (!in_use(*thread.block->group)) return;
  stores_thread_ended(thread);
  cluster_thread_ended();
}

bool idle(Group& group) {
  return in_use(group) && land_one_load();
}

bool name_agent(Id id, std::string& text) {
  if (resident == nullptr || !in_use(*resident)) return false;
  for (size_t t = 0; t < instance.threads.size(); ++t) {
    const BulkStores& stores = instance.threads[t].stores;
    if (id != stores.reader && id != stores.writer) continue;
    text = "a TMA store of thread " + std::to_string(resident->threads[t].index);
    return true;
  }
  for (size_t w = 0; w < instance.warps.size(); ++w) {
    if (id != instance.warps[w].agent) continue;
    text = "wgmma of warp " + std::to_string(resident->warps[w].index);
    return true;
  }
  text = "a TMA load";
  return true;
}

void turn(Group& group) {
  if (!in_use(group)) return;
  stores_and_loads_turn();
  multiplies_turn();
}

}  // namespace

HopperState& state() {
  static const bool added = [] {
    Agents agents;
    agents.group_end = group_end;
    agents.thread_end = thread_end;
    agents.idle = idle;
    agents.turn = turn;
    agents.name = name_agent;
    add_agents(agents);
    return true;
  }();
  (void)added;
  if (instance.group != resident->number) {
    instance = {};
    instance.group = resident->number;
    instance.blocks = std::vector<BlockState>(resident->blocks.size());
    instance.threads = std::vector<ThreadState>(resident->threads.size());
    instance.warps = std::vector<WarpMultiplies>(resident->warps.size());
    instance.warpgroups = std::vector<WarpgroupLog>(resident->warps.size() / 4 + 1);
  }
  return instance;
}

uint32_t shared_offset(const void* address, uint32_t alignment, Site site, const char* what) {
  const auto* const at = static_cast<const unsigned char*>(address);
  const unsigned char* const base = current->block->shared;
  if (at < base || at >= base + resident->shared_bytes) {
    fail(Kind::out_of_bounds, site, std::string(what) + ": an address outside of the block's shared memory");
  }
  const auto offset = static_cast<uint32_t>(at - base);
  if (offset % alignment != 0) {
    fail(Kind::misaligned, site,
         std::string(what) + ": shared offset " + std::to_string(offset) + " is no multiple of " +
             std::to_string(alignment));
  }
  return offset;
}

}  // namespace tilewright::emulator

namespace tilewright::ptx {

uint32_t shared_address(const void* shared) {
  return emulator::shared_offset(shared, 1, __builtin_return_address(0), "shared_address");
}

}  // namespace tilewright::ptx
