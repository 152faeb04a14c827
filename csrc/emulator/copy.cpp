// cp.async: copies that land between their issue and their group's wait, in whichever order is worst.
#include "emulator/ptx/copy.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "emulator/memory/bank_conflicts.h"
#include "emulator/memory/memory.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"
#include "emulator/sync.h"

namespace tilewright::emulator {
namespace {

void land(const PendingCopy& copy) {
  std::memcpy(copy.to, copy.from, copy.valid);
  std::memset(copy.to + copy.valid, 0, copy.bytes - copy.valid);
}

void check_aligned(const void* address, size_t bytes, const char* what, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  fail(Kind::misaligned, site,
       std::string(what) + " of " + std::to_string(bytes) + " bytes at an address that " +
           std::to_string(bytes) + " does not divide");
}

template <class T>
T load(const void* global, Site site) {
  check_aligned(global, sizeof(T), "load_streaming", site);
  if (!check_access(actor_of(*current), global, sizeof(T), kRead, site)) abandon();
  T value;
  std::memcpy(&value, global, sizeof(T));
  return value;
}

}  // namespace

// The copy belongs to an agent of the thread: it knows what the thread knew at the issue, and the thread (and
// through it others) becomes ordered after it by waiting for its group. Until then every other access to the
// shared bytes races with it, the thread's own included.
void copy_async(void* shared, const void* global, int bytes, int valid_bytes) {
  const Site site = __builtin_return_address(0);
  Thread& self = *current;
  if (valid_bytes < 0 || valid_bytes > bytes) {
    fail(Kind::asynchronous, site,
         "cp.async of " + std::to_string(bytes) + " bytes, of which " + std::to_string(valid_bytes) +
             " are valid");
  }
  check_aligned(shared, static_cast<size_t>(bytes), "cp.async to shared memory", site);
  check_aligned(global, static_cast<size_t>(bytes), "cp.async from global memory", site);
  size_t offset = 0;
  if (shared_block(shared, offset) != self.block) {
    fail(Kind::out_of_bounds, site, "cp.async writes outside its block's shared memory");
  }
  if (watching) {
    if (self.copy_agent == 0) self.copy_agent = resident->clocks.new_agent();
    const Actor agent{self.copy_agent, self.copy_groups + 1, self.clock};
    if (!check_access(agent, global, static_cast<size_t>(valid_bytes), kRead, site) ||
        !check_access(agent, shared, static_cast<size_t>(bytes), kWrite, site)) {
      abandon();
    }
    self.last_copy_group = self.copy_groups + 1;
    self.last_copy_site = site;
    count_banks(self, shared, static_cast<size_t>(bytes), BankUse::copy, site);
  }
  const PendingCopy copy{static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global),
                         static_cast<uint32_t>(bytes), static_cast<uint32_t>(valid_bytes),
                         self.copy_groups + 1};
  const Completion completion = options().completion;
  if (completion == Completion::eager || (completion == Completion::random && resident->random.chance(2))) {
    land(copy);
  } else {
    self.copies.push_back(copy);
  }
}

void wait_copies(int still_open) {
  Thread& self = *current;
  const auto open = static_cast<Epoch>(still_open);
  if (self.copy_groups <= open) return;
  const Epoch done = self.copy_groups - open;
  size_t kept = 0;
  for (const PendingCopy& copy : self.copies) {
    if (copy.group <= done) {
      land(copy);
    } else {
      self.copies[kept++] = copy;
    }
  }
  self.copies.resize(kept);
  self.copies_done = std::max(self.copies_done, done);
  if (self.copy_agent != 0) self.clock[self.copy_agent] = self.copies_done;
}

void thread_ended(Thread& thread) {
  if (thread.copy_agent == 0) return;
  if (thread.copies_done < thread.last_copy_group) {
    report(Kind::asynchronous, thread.last_copy_site,
           "the thread ended before it waited for its last cp.async");
  }
}

}  // namespace tilewright::emulator

namespace tilewright::ptx {

using namespace emulator;

void cp_async_commit() {
  ++current->copy_groups;
}

uint4 load_streaming_16(const void* global) {
  return load<uint4>(global, __builtin_return_address(0));
}

uint2 load_streaming_8(const void* global) {
  return load<uint2>(global, __builtin_return_address(0));
}

uint32_t load_streaming_4(const void* global) {
  return load<uint32_t>(global, __builtin_return_address(0));
}

}  // namespace tilewright::ptx
