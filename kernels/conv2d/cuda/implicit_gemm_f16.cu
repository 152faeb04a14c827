#include "conv2d/cuda/implicit_gemm_launch.cuh"
#include "conv2d/cuda/instances.h"

namespace tilewright::cuda::conv {

std::span<const Conv2dInstance> implicit_gemm_f16() {
  return kSixteenBit<__half, DataType::f16>;
}

}  // namespace tilewright::cuda::conv
