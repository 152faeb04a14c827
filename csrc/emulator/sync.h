// Meeting points of threads.
#pragma once

#include "emulator/block.h"

namespace tilewright::emulator {

// What lanes of a warp meet for. All must name the same operation and operand.
enum Operation : int {
  kSyncWarp,
  kShuffle,
  kElect,
  kLoadMatrix,
  kStoreMatrix,
  kMultiply,
  kFirstHopperOperation = 32,
};

// The current lane arrives. Returns true in the one that arrives last, which does what is to be done for all
// and then calls release(); the others return false once it has. Reports divergence: another operation or
// operand, a lane that has ended, a mask without the caller.
bool meet(int operation, uint64_t operand, uint32_t mask, const char* what, Site site);
void release(uint32_t mask);

// All lanes of `mask` become ordered after what each did so far.
void join_lanes(Warp& warp, uint32_t mask);

void thread_ended(Thread& thread);        // rules about what it leaves behind
void barriers_after_end(Thread& thread);  // barriers may be waiting for it only

}  // namespace tilewright::emulator
