#include "emulator/hopper/mbarrier.h"

#include <cstring>
#include <string>

#include "emulator/hopper/state.h"
#include "emulator/memory/memory.h"
#include "emulator/ptx/barrier.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {
namespace {

constexpr int64_t kMaxCount = (1 << 20) - 1;  // of arrivals, and of bytes in flight
constexpr uint64_t kMark = 0x7fa17fa16d626172u;

std::string describe(const Block& block, const MbarrierState& barrier) {
  return "the mbarrier at shared offset " + std::to_string(barrier.offset) + " of block " +
         std::to_string(block.index.x) + " (phase " + std::to_string(barrier.phase) + ", " +
         std::to_string(barrier.pending) + " of " + std::to_string(barrier.count) + " arrivals and " +
         std::to_string(barrier.bytes) + " bytes missing)";
}

void write_mark(Block& block, uint32_t offset) {
  const uint64_t mark = kMark ^ offset;
  std::memcpy(block.shared + offset, &mark, sizeof mark);
}

bool marked(const Block& block, uint32_t offset) {
  uint64_t mark = 0;
  std::memcpy(&mark, block.shared + offset, sizeof mark);
  return mark == (kMark ^ offset);
}

// Ends the phase if nothing is missing.
void advance(Block& block, MbarrierState& barrier, Site site) {
  if (barrier.pending != 0) return;
  if (barrier.bytes < 0) {
    report(Kind::barrier, site,
           describe(block, barrier) + " has all arrivals, and more bytes landed than were announced",
           barrier.site);
    barrier.bytes = 0;
  }
  if (barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.count;
  barrier.completed = std::move(barrier.arriving);
  barrier.arriving = Clock();
  for (Thread* thread : barrier.waiting) {
    resident->clocks.acquire(thread->id, barrier.completed);
    wake(*thread);
  }
  barrier.waiting.clear();
}

// What an arrival from another block tells: it releases to the scope of its own block only. Asynchronous
// reads that the thread waited for are over for everybody; its ordinary accesses are not ordered.
void join_remote(Clock& arriving) {
  resident->clocks.widen(arriving);
  const size_t threads = resident->threads.size();
  join(arriving.data() + threads, current->clock + threads, resident->clocks.width() - threads);
}

void arrive(Block& block, MbarrierState& barrier, Site site, const char* what) {
  if (barrier.pending == 0) {
    fail(Kind::barrier, site,
         std::string(what) + ": " + describe(block, barrier) + " takes no more arrivals");
  }
  if (&block == current->block) {
    resident->clocks.join_into(barrier.arriving, current->id);
  } else {
    join_remote(barrier.arriving);
  }
  tick(*current);
  --barrier.pending;
  advance(block, barrier, site);
}

}  // namespace

MbarrierState& mbarrier_at(Block& block, uint32_t offset, bool remote, Site site, const char* what) {
  Mbarriers& barriers = state().blocks[block.rank].barriers;
  const auto found = barriers.find(offset);
  if (found == barriers.end()) {
    fail(Kind::barrier, site,
         std::string(what) + ": no mbarrier was initialised at shared offset " + std::to_string(offset) +
             " of block " + std::to_string(block.index.x));
  }
  MbarrierState& barrier = found->second;
  if (!marked(block, offset)) {
    report(Kind::barrier, site, std::string(what) + ": something wrote over " + describe(block, barrier),
           barrier.site);
    write_mark(block, offset);
  }
  const Epoch known = current->clock[barrier.initialised.id];
  if (known < barrier.initialised.epoch) {
    report(Kind::race, site,
           std::string(what) + " is not ordered after the initialisation of " + describe(block, barrier) +
               " at " + mark(barrier.site),
           barrier.site);
  } else if (remote && (barrier.fenced == 0 || known < barrier.fenced)) {
    report(Kind::asynchronous, site,
           std::string(what) + " uses " + describe(block, barrier) + " initialised at " + mark(barrier.site) +
               " without mbarrier_init_fence",
           barrier.site);
  }
  return barrier;
}

void land_bytes(Block& block, uint32_t offset, uint32_t bytes, const Clock& clock, Site site) {
  MbarrierState& barrier = state().blocks[block.rank].barriers.at(offset);
  resident->clocks.widen(barrier.arriving);
  join(barrier.arriving.data(), clock.data(), clock.width());
  barrier.bytes -= bytes;
  if (barrier.bytes < -kMaxCount) {
    report(Kind::barrier, site,
           describe(block, barrier) + ": more than 2^20 bytes landed that nobody announced", barrier.site);
  }
  advance(block, barrier, site);
}

void check_mbarriers_at_end(Block& block) {
  for (const auto& [offset, barrier] : state().blocks[block.rank].barriers) {
    if (barrier.bytes != 0) {
      report(Kind::barrier, barrier.site,
             "the kernel ended while " + describe(block, barrier) + " was in use");
    }
    if (!marked(block, offset)) {
      report(Kind::barrier, barrier.site, "something wrote over " + describe(block, barrier));
    }
  }
}

namespace {

MbarrierState& own_barrier(ptx::Mbarrier* barrier, Site site, const char* what) {
  return mbarrier_at(*current->block, shared_offset(barrier, sizeof(ptx::Mbarrier), site, what), false, site,
                     what);
}

// Whether the phase of this parity is over: it is if the current phase has the other one.
bool is_over(const MbarrierState& barrier, int parity) {
  return (barrier.phase & 1) != static_cast<uint64_t>(parity);
}

void check_parity(int parity, Site site) {
  if (parity != 0 && parity != 1) {
    fail(Kind::barrier, site, "mbarrier_wait: parity is " + std::to_string(parity) + "; expected 0 or 1");
  }
}

void wait_for_phase(MbarrierState& barrier, int parity, Site site) {
  const uint64_t phase = barrier.phase;
  barrier.waiting.push_back(current);
  park({"mbarrier_wait (shared offset, parity)", site, barrier.offset, parity});
  if (barrier.phase != phase + 1) {
    report(Kind::barrier, site,
           "while a thread waited for phase " + std::to_string(phase) + ", " +
               describe(*current->block, barrier) + " went on by " + std::to_string(barrier.phase - phase) +
               " phases: a device's thread may have found the parity as it was, and wait for ever");
  }
}

}  // namespace
}  // namespace tilewright::emulator

namespace tilewright::ptx {

using namespace emulator;

void mbarrier_init(Mbarrier* barrier, int count) {
  const Site site = __builtin_return_address(0);
  static constexpr char kWhat[] = "mbarrier_init";
  if (count < 1 || count > kMaxCount) {
    fail(Kind::barrier, site,
         "mbarrier_init: count is " + std::to_string(count) + "; expected 1 to 2^20 - 1");
  }
  const uint32_t offset = shared_offset(barrier, sizeof *barrier, site, kWhat);
  Block& block = *current->block;
  Mbarriers& barriers = state().blocks[block.rank].barriers;
  if (const auto found = barriers.find(offset); found != barriers.end()) {
    fail(Kind::barrier, site,
         "mbarrier_init: " + describe(block, found->second) + " was initialised already, at " +
             mark(found->second.site));
  }
  check_access(actor_of(*current), barrier, sizeof *barrier, kWrite, site);
  write_mark(block, offset);
  MbarrierState& made = barriers[offset];
  made.offset = offset;
  made.count = made.pending = count;
  made.initialised = {current->id, current->clock[current->id]};
  made.site = site;
  tick(*current);
}

void mbarrier_init_fence() {
  for (auto& [offset, barrier] : state().blocks[current->block->rank].barriers) {
    if (barrier.initialised.id == current->id && barrier.fenced == 0) {
      barrier.fenced = current->clock[current->id];
    }
  }
  tick(*current);
}

void mbarrier_arrive(Mbarrier* barrier) {
  const Site site = __builtin_return_address(0);
  static constexpr char kWhat[] = "mbarrier_arrive";
  arrive(*current->block, own_barrier(barrier, site, kWhat), site, kWhat);
}

void mbarrier_arrive_cluster(Mbarrier* barrier, int block_rank) {
  const Site site = __builtin_return_address(0);
  static constexpr char kWhat[] = "mbarrier_arrive_cluster";
  const uint32_t offset = shared_offset(barrier, sizeof *barrier, site, kWhat);
  Block& block = block_of_cluster(block_rank, site, kWhat);
  if (&block != current->block) {
    AgentStep& arrival = state().threads[current->id].remote_arrival;
    if (arrival.id == 0) arrival.id = new_agent();
    current->clock[arrival.id] = ++arrival.epoch;
    note_use(block, arrival, site, kWhat);
  }
  arrive(block, mbarrier_at(block, offset, &block != current->block, site, kWhat), site, kWhat);
}

void mbarrier_expect_bytes(Mbarrier* barrier, uint32_t bytes) {
  const Site site = __builtin_return_address(0);
  static constexpr char kWhat[] = "mbarrier_expect_bytes";
  MbarrierState& found = own_barrier(barrier, site, kWhat);
  found.bytes += bytes;
  if (found.bytes > kMaxCount) {
    fail(
        Kind::barrier, site,
        std::string(kWhat) + ": " + describe(*current->block, found) + "; at most 2^20 - 1 can be announced");
  }
  arrive(*current->block, found, site, kWhat);
}

bool mbarrier_try_wait(Mbarrier* barrier, int parity) {
  const Site site = __builtin_return_address(0);
  check_parity(parity, site);
  MbarrierState& found = own_barrier(barrier, site, "mbarrier_try_wait");
  if (!is_over(found, parity)) {
    if (options().seed != 0 && resident->random.chance(4)) {
      yield();
      return false;  // the device's waits for a while only
    }
    wait_for_phase(found, parity, site);
  } else if (found.phase > 0) {
    resident->clocks.acquire(current->id, found.completed);
  }
  return true;
}

void mbarrier_wait(Mbarrier* barrier, int parity) {
  const Site site = __builtin_return_address(0);
  check_parity(parity, site);
  MbarrierState& found = own_barrier(barrier, site, "mbarrier_wait");
  if (found.seen.empty()) found.seen.resize(resident->threads.size(), 0);
  if (!is_over(found, parity)) {
    wait_for_phase(found, parity, site);
  } else if (found.phase > 0) {
    resident->clocks.acquire(current->id, found.completed);
    if (found.seen[current->id] == found.phase) {
      report(Kind::barrier, site,
             "mbarrier_wait: a thread waits again for the phase of " + describe(*current->block, found) +
                 " that it waited for before: parity " + std::to_string(parity) + " was not flipped");
    }
  }
  found.seen[current->id] = found.phase;
}

}  // namespace tilewright::ptx
