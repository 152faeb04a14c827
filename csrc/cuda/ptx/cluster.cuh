// The blocks of a cluster: rank and barrier. sm_90. A launch without clusters is one of clusters of one
// block.
#pragma once

#include "cuda/platform.cuh"

#if TILEWRIGHT_EMULATED

#include "emulator/ptx/cluster.h"

#else

namespace tilewright::ptx {

// Every thread of every block of the cluster arrives, then waits. Arriving releases what the thread wrote,
// waiting acquires what the others did.
TILEWRIGHT_DEVICE void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

TILEWRIGHT_DEVICE void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

TILEWRIGHT_DEVICE void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// The block's place in its cluster.
TILEWRIGHT_DEVICE uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

}  // namespace tilewright::ptx

#endif
