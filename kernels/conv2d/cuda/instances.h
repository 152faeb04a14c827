// The instances by translation unit; conv2d_instances() joins them.
#pragma once

#include "conv2d/cuda/conv2d.h"

namespace tilewright::cuda {

Conv2dInstance depthwise_bf16();
Conv2dInstance depthwise_f16();
Conv2dInstance depthwise_f32();

}  // namespace tilewright::cuda
