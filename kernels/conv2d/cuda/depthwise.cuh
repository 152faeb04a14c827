// Depthwise convolution, and that of small groups, without matrix units: each tap is multiplied where it is
// loaded.
//
//     y[n, k, p, q] = act(sum over i, r, s of x[n, group(k)·C + i, ..] · w[k, i, r, s] + bias[k] + residual)
//
// where C, the input channels of a group, is 1 (depthwise, with any number of outputs per input) or small: a
// matrix product would be mostly padding. Such a layer is bound by memory; what overlapping windows read
// twice comes from L1. Here is what its kernels share, and the one that takes any strides and window;
// depthwise_planes.cuh and depthwise_vectors.cuh have those for the usual windows in NCHW and for NHWC.
#pragma once

#include "conv2d/cuda/output.cuh"
#include "cuda/fast_divide.h"
#include "cuda/platform.cuh"

namespace tilewright::cuda::conv {

struct Depthwise {
  const void* x;
  const void* weight;
  int64_t x_n, x_c, x_h, x_w;
  int64_t weight_k, weight_c, weight_r, weight_s;
  int in_channels;   // of a group
  int out_channels;  // of all groups
  int height, width, out_height, out_width, taps_h, taps_w;
  int stride_h, stride_w, dilation_h, dilation_w, top, left;
  uint32_t units;  // of work, see each kernel; they are numbered pixels first, then channels, then images
  FastDivisor by_pixel_units, by_channel_units, by_out_width, by_group;  // by_group: outputs of a group
  ConvOutput output;
};

TILEWRIGHT_DEVICE float to_float(__nv_bfloat16 v) {
  return __bfloat162float(v);
}

TILEWRIGHT_DEVICE float to_float(__half v) {
  return __half2float(v);
}

TILEWRIGHT_DEVICE float to_float(float v) {
  return v;
}

inline constexpr int kDepthwiseThreads = 128;
// Outputs of a thread: a weight is loaded once for them all.
inline constexpr int kDepthwisePixels = 4;

// Eight blocks of a multiprocessor: told so, ptxas takes the registers it needs, where by itself it spills
// for sm_90.
//
// A unit is a warp's: 32 neighbouring channels × 4 neighbouring pixels or, where pixels_last says that images
// lie plane by plane, 1 channel × 4 · 32 neighbouring pixels.
template <class T, bool pixels_last>
TILEWRIGHT_KERNEL void __launch_bounds__(kDepthwiseThreads, 8)
    depthwise(const __grid_constant__ Depthwise d) {
  const uint32_t unit = (blockIdx.x * kDepthwiseThreads + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (unit >= d.units) return;
  const uint32_t rest = d.by_pixel_units.divide(unit), n = d.by_channel_units.divide(rest);
  const uint32_t pixel_unit = d.by_pixel_units.remainder(unit, rest);
  const uint32_t channel_unit = d.by_channel_units.remainder(rest, n);
  const int k = static_cast<int>(pixels_last ? channel_unit : channel_unit * 32 + lane);
  if (k >= d.out_channels) return;

  const int64_t first_channel = static_cast<int64_t>(d.by_group.divide(k)) * d.in_channels;
  const T* x = static_cast<const T*>(d.x) + n * d.x_n + first_channel * d.x_c;
  const T* weight = static_cast<const T*>(d.weight) + k * d.weight_k;
  int p[kDepthwisePixels], q[kDepthwisePixels];
  float sums[kDepthwisePixels] = {};
#pragma unroll
  for (int i = 0; i < kDepthwisePixels; ++i) {
    const uint32_t pixel = pixel_unit * (pixels_last ? 32 * kDepthwisePixels : kDepthwisePixels) +
                           (pixels_last ? i * 32 + lane : i);
    p[i] = static_cast<int>(d.by_out_width.divide(pixel));
    q[i] = static_cast<int>(d.by_out_width.remainder(pixel, p[i]));
  }
  for (int c = 0; c < d.in_channels; ++c) {
    for (int r = 0; r < d.taps_h; ++r) {
      for (int s = 0; s < d.taps_w; ++s) {
        const float w = to_float(weight[c * d.weight_c + r * d.weight_r + s * d.weight_s]);
#pragma unroll
        for (int i = 0; i < kDepthwisePixels; ++i) {
          const int row = p[i] * d.stride_h - d.top + r * d.dilation_h;
          const int column = q[i] * d.stride_w - d.left + s * d.dilation_w;
          if (p[i] < d.out_height && static_cast<uint32_t>(row) < static_cast<uint32_t>(d.height) &&
              static_cast<uint32_t>(column) < static_cast<uint32_t>(d.width)) {
            sums[i] += to_float(x[row * d.x_h + column * d.x_w]) * w;
          }
        }
      }
    }
    x += d.x_c;
  }
#pragma unroll
  for (int i = 0; i < kDepthwisePixels; ++i) {
    if (p[i] < d.out_height) d.output.finish_one(sums[i], n, k, p[i], q[i]);
  }
}

}  // namespace tilewright::cuda::conv
