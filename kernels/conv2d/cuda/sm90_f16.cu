#include "conv2d/cuda/instances.h"
#include "conv2d/cuda/sm90_launch.cuh"

namespace tilewright::cuda::conv {

std::span<const Conv2dInstance> sm90_f16() {
  return kSm90SixteenBitConv<__half>;
}

}  // namespace tilewright::cuda::conv
