// mbarriers: a phase ends when as many arrivals as the barrier was initialised for have come, and as many
// bytes as were announced have landed. Waiting is by parity: the first phase of a barrier has parity 0, and
// waiting for the parity of the phase before the current one returns at once. sm_90.
#pragma once

#include "cuda/platform.cuh"
#include "cuda/ptx/address.cuh"

#if TILEWRIGHT_EMULATED

#include "emulator/ptx/barrier.h"

#else

namespace tilewright::ptx {

using Mbarrier = uint64_t;

TILEWRIGHT_DEVICE void mbarrier_init(Mbarrier* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
}

// Makes initialised barriers visible to the asynchronous proxy and to the cluster's other blocks. Threads
// still need a barrier (of the block, or of the cluster) before they touch them.
TILEWRIGHT_DEVICE void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

TILEWRIGHT_DEVICE void mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// Arrives at the barrier that lies at the same place in the shared memory of the cluster's block
// `block_rank`. This tells that asynchronous reads are over; it does not hand over what the thread wrote with
// ordinary stores: a release to the whole cluster costs a MEMBAR.GPU, in every step of a main loop.
TILEWRIGHT_DEVICE void mbarrier_arrive_cluster(Mbarrier* barrier, int block_rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(block_rank)
      : "memory");
}

// One arrival that also announces `bytes` of asynchronous copies to this phase.
TILEWRIGHT_DEVICE void mbarrier_expect_bytes(Mbarrier* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Whether the phase of this parity is over; may take a while to say no.
TILEWRIGHT_DEVICE bool mbarrier_try_wait(Mbarrier* barrier, int parity) {
  uint32_t over;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(over)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return over != 0;
}

TILEWRIGHT_DEVICE void mbarrier_wait(Mbarrier* barrier, int parity) {
  while (!mbarrier_try_wait(barrier, parity)) {
  }
}

// What this thread wrote to shared memory before is seen by asynchronous copies and by wgmma started after
// (once a barrier has told whoever starts them).
TILEWRIGHT_DEVICE void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace tilewright::ptx

#endif
