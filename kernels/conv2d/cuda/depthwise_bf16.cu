#include "conv2d/cuda/depthwise_launch.cuh"
#include "conv2d/cuda/instances.h"

namespace tilewright::cuda::conv {

Conv2dInstance depthwise_bf16() {
  return depthwise_of_type<__nv_bfloat16>();
}

}  // namespace tilewright::cuda::conv
