#include "conv2d/cuda/implicit_gemm_launch.cuh"
#include "conv2d/cuda/instances.h"

namespace tilewright::cuda::conv {

std::span<const Conv2dInstance> implicit_gemm_bf16() {
  return kSixteenBit<__nv_bfloat16, DataType::bf16>;
}

}  // namespace tilewright::cuda::conv
