// What numbers the kernels can count with. Needs no CUDA header.
#pragma once

#include "conv2d/cuda/conv2d.h"

namespace tilewright::cuda::conv {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

constexpr int64_t round_up(int64_t a, int64_t multiple) {
  return ceil_div(a, multiple) * multiple;
}

inline constexpr int64_t kMostUnits = (int64_t{1} << 31) - 1;  // what FastDivisor divides
inline constexpr int64_t kMostPixels =
    (int64_t{1} << 29) - 1;  // of a side of an image, padding and window included

// Coordinates of the image are 32-bit, offsets 64-bit.
inline const char* size_refusal(const Conv2dArguments& a) {
  for (int64_t side : {a.height, a.width, a.out_height * a.stride_h, a.out_width * a.stride_w, a.top, a.left,
                       -a.top, -a.left, a.kernel_h * a.dilation_h, a.kernel_w * a.dilation_w}) {
    if (side > kMostPixels)
      return "counts the pixels of a side of the image with 29 bits, and there are more";
  }
  for (int64_t count : {a.out_height * a.out_width, a.groups * a.out_channels, a.groups * a.in_channels,
                        a.in_channels * a.kernel_h * a.kernel_w}) {
    if (count > kMostUnits)
      return "counts pixels, channels and terms of a sum with 31 bits, and there are more";
  }
  return nullptr;
}

}  // namespace tilewright::cuda::conv
