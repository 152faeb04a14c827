// The emulator's side of cuda/ptx/barrier.cuh.
#pragma once

#include <cstdint>

namespace tilewright::ptx {

using Mbarrier = uint64_t;

void mbarrier_init(Mbarrier* barrier, int count);
void mbarrier_init_fence();
void mbarrier_arrive(Mbarrier* barrier);
void mbarrier_arrive_cluster(Mbarrier* barrier, int block_rank);
void mbarrier_expect_bytes(Mbarrier* barrier, uint32_t bytes);
bool mbarrier_try_wait(Mbarrier* barrier, int parity);
void mbarrier_wait(Mbarrier* barrier, int parity);
void fence_async_proxy();

}  // namespace tilewright::ptx
