#include "conv2d/cuda/implicit_gemm_launch.cuh"
#include "conv2d/cuda/instances.h"

namespace tilewright::cuda::conv {

std::span<const Conv2dInstance> implicit_gemm_tf32() {
  return kTf32;
}

}  // namespace tilewright::cuda::conv
