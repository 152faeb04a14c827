#include "matmul/cuda/sm90_instances.h"
#include "matmul/cuda/sm90_launch.cuh"

namespace tilewright::cuda {

std::span<const MatmulInstance> sm90_bf16_instances() {
  return kSm90SixteenBit<__nv_bfloat16>;
}

}  // namespace tilewright::cuda
