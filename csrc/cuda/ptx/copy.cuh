// Copies from global memory: asynchronously to shared memory, or to registers past L1.
#pragma once

#include "cuda/platform.cuh"
#include "cuda/ptx/address.cuh"

#if TILEWRIGHT_EMULATED

#include "emulator/ptx/copy.h"

#else

namespace tilewright::ptx {

// Copies `valid_bytes` of the `bytes` (4, 8 or 16, to which both addresses are aligned) and fills the rest
// with zeros; with 0 valid bytes nothing is read. Arrives when its group has been waited for. Where
// valid_bytes is one of two constants, 0 and `bytes`, it costs a predicate, else two more instructions.
template <int bytes>
TILEWRIGHT_DEVICE void cp_async(void* shared, const void* global, int valid_bytes) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  if constexpr (bytes == 16) {
    // Past L1: a block reads each byte of an operand once. L2 fetches whole 128-byte lines.
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(valid_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
                 "n"(bytes), "r"(valid_bytes)
                 : "memory");
  }
}

// Closes the group of this thread's copies since the last commit; a group may be empty.
TILEWRIGHT_DEVICE void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `n` of this thread's latest groups are under way. What other threads copied is seen
// after a barrier.
template <int n>
TILEWRIGHT_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

// Loads of memory that no one writes while the kernel runs and that is read once: they leave L1 alone.
TILEWRIGHT_DEVICE uint4 load_streaming_16(const void* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

TILEWRIGHT_DEVICE uint2 load_streaming_8(const void* global) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(global));
  return v;
}

TILEWRIGHT_DEVICE uint32_t load_streaming_4(const void* global) {
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(global));
  return v;
}

}  // namespace tilewright::ptx

#endif
