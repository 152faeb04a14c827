// Threads of a block and of a warp: barriers, shuffles, election.
#pragma once

#include "cuda/platform.cuh"

#if TILEWRIGHT_EMULATED

#include "emulator/ptx/sync.h"

#else

namespace tilewright::ptx {

inline constexpr uint32_t kWholeWarp = 0xffffffffu;

// Every thread of the block arrives; what each wrote before is seen by all after.
TILEWRIGHT_DEVICE void sync_threads() {
  __syncthreads();
}

// The same among the lanes of `mask`, which must be exactly those that call.
TILEWRIGHT_DEVICE void sync_warp(uint32_t mask = kWholeWarp) {
  __syncwarp(mask);
}

// The shuffles exchange registers of all 32 lanes. They order no memory: where another lane's stores are to
// be read, sync_warp comes in between.
template <class T>
TILEWRIGHT_DEVICE T shuffle_xor(T value, int lane_mask) {
  return __shfl_xor_sync(kWholeWarp, value, lane_mask);
}

template <class T>
TILEWRIGHT_DEVICE T shuffle_down(T value, int delta) {
  return __shfl_down_sync(kWholeWarp, value, delta);
}

template <class T>
TILEWRIGHT_DEVICE T shuffle(T value, int source) {
  return __shfl_sync(kWholeWarp, value, source);
}

TILEWRIGHT_DEVICE int lane_id() {
  uint32_t lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return static_cast<int>(lane);
}

// True in exactly one lane of a converged warp. The compiler knows so of elect.sync, and then issues what
// follows without a loop over lanes.
TILEWRIGHT_DEVICE bool elect_one() {
#if __CUDA_ARCH__ >= 900
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
#else
  return lane_id() == 0;
#endif
}

// Named barriers 1 to 15 (0 is sync_threads'), each for `threads` threads in whole warps. `barrier_arrive`
// does not wait: whoever syncs on the barrier sees what the arrivers wrote before.
TILEWRIGHT_DEVICE void barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

TILEWRIGHT_DEVICE void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace tilewright::ptx

#endif
