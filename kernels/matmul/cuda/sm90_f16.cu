#include "matmul/cuda/sm90_instances.h"
#include "matmul/cuda/sm90_launch.cuh"

namespace tilewright::cuda {

std::span<const MatmulInstance> sm90_f16_instances() {
  return kSm90SixteenBit<__half>;
}

}  // namespace tilewright::cuda
