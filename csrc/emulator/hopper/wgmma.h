// wgmma: the multiplications that a warpgroup starts and waits for, warp by warp.
//
// Each of the four warps has an agent that reads its 16 rows of A and all of B when it multiplies: when the
// warp waits (Completion::deferred), at once (eager), or in between (random). Until then the sums in the
// threads' registers hold poison, and belong to the agent.
#pragma once

#include <deque>
#include <list>
#include <vector>

#include "emulator/block.h"
#include "emulator/hopper/agents.h"
#include "emulator/hopper/multiply.h"

namespace tilewright::emulator {

// The registers that hold a warp's part of a tile of sums, lane by lane.
struct Accumulator {
  float* registers[32];
  int n = 0;  // columns; each lane has n / 2 values
  bool in_flight = false;
  Epoch last = 0;           // the last multiplication into it
  std::vector<float> sums;  // 16 rows of n, while in flight
};

struct PendingMultiply {
  Multiply what;
  Accumulator* into;
  Epoch epoch;
  Clock clock;
  Site site;
};

// A lane's stack as it was at its last wgmma_fence: what its registers held.
struct Snapshot {
  const unsigned char* from = nullptr;
  std::vector<unsigned char> bytes;
};

struct WarpMultiplies {
  Id agent = 0;
  Epoch issued = 0;                     // multiplications so far: the agent's epochs
  bool fenced = false;                  // since sums landed last
  std::list<Accumulator> accumulators;  // most recently used first
  std::deque<PendingMultiply> pending;  // not multiplied yet
  std::deque<Epoch> groups;             // committed and not waited for: the last epoch of each
  Epoch committed = 0;
  float* registers[32] = {};  // that the lanes of the call at hand name
  Snapshot at_fence[32];
  int registers_each = 0;  // of a thread, as registers_grow or registers_shrink set it; 0: as launched
};

// Which multiplications the warps of a warpgroup started: they must be the same.
struct WarpgroupLog {
  std::deque<uint64_t> operations;  // from number `first` on
  uint64_t first = 0;
  uint64_t started[4] = {};
};

// At a scheduler's turn: perhaps a warp's oldest multiplication is done.
void multiplies_turn();

void check_multiplies_at_end();

}  // namespace tilewright::emulator
