#include "conv2d/cuda/depthwise_launch.cuh"
#include "conv2d/cuda/instances.h"

namespace tilewright::cuda::conv {

Conv2dInstance depthwise_f16() {
  return depthwise_of_type<__half>();
}

}  // namespace tilewright::cuda::conv
