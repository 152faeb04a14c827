#include "conv2d/cuda/implicit_gemm_launch.cuh"
#include "conv2d/cuda/instances.h"

namespace tilewright::cuda::conv {

std::span<const Conv2dInstance> implicit_gemm_tf32() {
  return tf32_instances();
}

}  // namespace tilewright::cuda::conv
