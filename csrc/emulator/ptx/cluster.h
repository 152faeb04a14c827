// The emulator's side of cuda/ptx/cluster.cuh.
#pragma once

#include <cstdint>

namespace tilewright::ptx {

void cluster_arrive();
void cluster_wait();
void cluster_sync();
uint32_t cluster_rank();

}  // namespace tilewright::ptx
