// The instances by translation unit; conv2d_instances() joins them.
#pragma once

#include <span>

#include "conv2d/cuda/conv2d.h"

namespace tilewright::cuda::conv {

Conv2dInstance depthwise_bf16();
Conv2dInstance depthwise_f16();
Conv2dInstance depthwise_f32();
std::span<const Conv2dInstance> implicit_gemm_bf16();
std::span<const Conv2dInstance> implicit_gemm_f16();
std::span<const Conv2dInstance> implicit_gemm_tf32();
std::span<const Conv2dInstance> sm90_bf16();
std::span<const Conv2dInstance> sm90_f16();
std::span<const Conv2dInstance> sm90_tf32();

}  // namespace tilewright::cuda::conv
