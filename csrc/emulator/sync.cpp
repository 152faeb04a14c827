#include "emulator/sync.h"

#include <algorithm>
#include <string>

#include "emulator/memory/memory.h"
#include "emulator/ptx/sync.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {
namespace {

constexpr uint32_t kAll = ~0u;

const char* operation_name(int operation) {
  static const char* const names[] = {"sync_warp", "a shuffle", "elect_one", "ldmatrix", "stmatrix", "mma"};
  return operation < 6 ? names[operation] : "another warp-wide operation";
}

unsigned first_lane(uint32_t lanes) {
  return static_cast<unsigned>(__builtin_ctz(lanes));
}

// Exchanged by shuffles: what a lane gave, and what it gets.
struct Exchange {
  uint64_t given[32];
  unsigned source[32];
  uint64_t taken[32];
};
Exchange exchanges[512];  // by warp of the group

}  // namespace

bool meet(int operation, uint64_t operand, uint32_t mask, const char* what, Site site) {
  Thread& self = *current;
  Warp& warp = *self.warp;
  const uint32_t own = 1u << self.lane;
  if ((mask & own) == 0) {
    fail(Kind::divergence, site,
         std::string(what) + " is called by lane " + std::to_string(self.lane) +
             ", which its mask leaves out");
  }
  Rendezvous* here = nullptr;
  for (int i = 0; i < warp.meetings; ++i) {
    Rendezvous& other = warp.meeting[i];
    if (other.operation == operation && other.mask == mask) {
      here = &other;
    } else if ((other.arrived & mask) != 0) {
      fail(Kind::divergence, site,
           std::string(what) + " expects lane " + std::to_string(first_lane(other.arrived & mask)) +
               ", which waits at " + operation_name(other.operation) + ", " + mark(other.site));
    }
  }
  if (here == nullptr) {
    if ((mask & warp.finished) != 0) {
      fail(Kind::divergence, site,
           std::string(what) + " expects lane " + std::to_string(first_lane(mask & warp.finished)) +
               ", which has ended");
    }
    if (warp.meetings == 4) fail(Kind::divergence, site, "lanes of a warp wait at more than 4 operations");
    here = &warp.meeting[warp.meetings++];
    *here = {mask, 0, operation, operand, site};
  } else if (here->operand != operand) {
    fail(Kind::divergence, site,
         std::string(what) + ": lane " + std::to_string(self.lane) +
             " calls it with another operand than lane " + std::to_string(first_lane(here->arrived)) +
             " at " + mark(here->site));
  }
  here->arrived |= own;
  if (here->arrived == mask) {
    *here = warp.meeting[--warp.meetings];
    return true;
  }
  park({what, site, static_cast<long long>(mask), 0});
  return false;
}

void release(uint32_t mask) {
  Thread& self = *current;
  wake(*self.warp, mask & ~(1u << self.lane));
  if (options().seed != 0 && resident->random.chance(32)) yield();
}

void join_lanes(Warp& warp, uint32_t mask) {
  ClockSpace& clocks = resident->clocks;
  const size_t width = clocks.width();
  const Thread& first = warp.lanes[first_lane(mask)];
  for (uint32_t rest = mask & (mask - 1); rest != 0; rest &= rest - 1) {
    join(first.clock, warp.lanes[first_lane(rest)].clock, width);
  }
  for (uint32_t rest = mask & (mask - 1); rest != 0; rest &= rest - 1) {
    std::copy_n(first.clock, width, warp.lanes[first_lane(rest)].clock);
  }
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) tick(warp.lanes[first_lane(rest)]);
}

namespace {

// Everybody who waits goes on, ordered after all who arrived.
void open(NamedBarrier& barrier) {
  ClockSpace& clocks = resident->clocks;
  for (Thread* thread : barrier.waiting) {
    clocks.acquire(thread->id, barrier.clock);
    if (thread != current) wake(*thread);
  }
  barrier.waiting.clear();
  barrier.clock.clear();
  barrier.arrived = 0;
  barrier.threads = 0;
  std::fill(barrier.lanes.begin(), barrier.lanes.end(), 0);
}

void check_whole_warps(const NamedBarrier& barrier, const Block& block, Site site, const char* what) {
  for (size_t w = 0; w < barrier.lanes.size(); ++w) {
    // A lane that only arrived may have ended since.
    const uint32_t live = ~block.first[w * 32].warp->finished;
    if (barrier.lanes[w] != 0 && (live & ~barrier.lanes[w]) != 0) {
      report(Kind::barrier, site,
             std::string(what) + " is reached by a part of warp " + std::to_string(w) + " only");
    }
  }
}

void arrive(NamedBarrier& barrier, bool waits, Site site, const char* what) {
  Thread& self = *current;
  ClockSpace& clocks = resident->clocks;
  if (barrier.lanes.empty()) barrier.lanes.resize(self.block->threads / 32);
  uint32_t& lanes = barrier.lanes[self.warp->index];
  if ((lanes >> self.lane & 1) != 0) {
    fail(Kind::barrier, site, std::string(what) + " is reached twice by a thread before it opened");
  }
  lanes |= 1u << self.lane;
  clocks.join_into(barrier.clock, self.id);
  tick(self);
  barrier.site = site;
  ++barrier.arrived;
  if (waits) barrier.waiting.push_back(&self);
}

void block_barrier(int id, int threads, bool waits, Site site, const char* what) {
  Thread& self = *current;
  if (id < 0 || id > 15)
    fail(Kind::barrier, site,
         std::string(what) + ": barriers are numbered 0 to 15, not " + std::to_string(id));
  if (threads <= 0 || threads % 32 != 0 || threads > static_cast<int>(self.block->threads)) {
    fail(Kind::barrier, site,
         std::string(what) + ": " + std::to_string(threads) +
             " threads; a barrier takes whole warps of the block's " + std::to_string(self.block->threads) +
             " threads");
  }
  NamedBarrier& barrier = self.block->barriers[id];
  if (barrier.arrived != 0 && barrier.threads != threads) {
    fail(Kind::barrier, site,
         std::string(what) + " " + std::to_string(id) + " for " + std::to_string(threads) +
             " threads; others arrived for " + std::to_string(barrier.threads) + " at " + mark(barrier.site));
  }
  barrier.threads = threads;
  arrive(barrier, waits, site, what);
  if (barrier.arrived == threads) {
    check_whole_warps(barrier, *self.block, site, what);
    open(barrier);
    return;
  }
  if (waits) park({what, site, id, threads});
}

}  // namespace

void barriers_after_end(Thread& thread) {
  const Warp& warp = *thread.warp;
  for (int i = 0; i < warp.meetings; ++i) {
    if ((warp.meeting[i].mask >> thread.lane & 1) == 0) continue;
    fail(Kind::divergence, warp.meeting[i].site,
         std::string(operation_name(warp.meeting[i].operation)) + " expects lane " +
             std::to_string(thread.lane) + ", which has ended");
  }
  // __syncthreads counts the threads that have not ended.
  NamedBarrier& barrier = thread.block->barriers[0];
  if (barrier.threads < 0 && barrier.arrived != 0 &&
      barrier.arrived == static_cast<int>(thread.block->unfinished)) {
    open(barrier);
  }
}

}  // namespace tilewright::emulator

namespace tilewright::ptx {

using namespace emulator;

void sync_threads() {
  const Site site = __builtin_return_address(0);
  Thread& self = *current;
  NamedBarrier& barrier = self.block->barriers[0];
  if (barrier.arrived != 0 && barrier.threads >= 0) {
    fail(Kind::barrier, site,
         "sync_threads is barrier 0, at which others arrived for " + std::to_string(barrier.threads) +
             " threads at " + mark(barrier.site));
  }
  barrier.threads = -1;
  arrive(barrier, true, site, "sync_threads");
  if (barrier.arrived == static_cast<int>(self.block->unfinished)) {
    check_whole_warps(barrier, *self.block, site, "sync_threads");
    open(barrier);
  } else {
    park({"sync_threads", site, 0, self.block->threads});
  }
}

void barrier_sync(int id, int threads) {
  block_barrier(id, threads, true, __builtin_return_address(0), "barrier_sync");
}

void barrier_arrive(int id, int threads) {
  block_barrier(id, threads, false, __builtin_return_address(0), "barrier_arrive");
}

void sync_warp(uint32_t mask) {
  if (meet(kSyncWarp, 0, mask, "sync_warp", __builtin_return_address(0))) {
    join_lanes(*current->warp, mask);
    release(mask);
  }
}

bool elect_one() {
  if (meet(kElect, 0, kAll, "elect_one", __builtin_return_address(0))) release(kAll);
  return current->lane == resident->elected_lane;
}

int lane_id() {
  return static_cast<int>(current->lane);
}

}  // namespace tilewright::ptx

namespace tilewright::emulator {

uint64_t exchange(uint64_t bits, unsigned source_lane, uint64_t operand) {
  Exchange& e = exchanges[current->warp->number];
  const unsigned lane = current->lane;
  e.given[lane] = bits;
  e.source[lane] = source_lane & 31;
  if (meet(kShuffle, operand, kAll, "a shuffle", __builtin_return_address(0))) {
    for (unsigned l = 0; l < 32; ++l) e.taken[l] = e.given[e.source[l]];
    release(kAll);
  }
  return e.taken[lane];
}

}  // namespace tilewright::emulator
