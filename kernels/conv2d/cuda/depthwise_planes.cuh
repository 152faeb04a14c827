// Depthwise convolution with a window of 3 × 3, undilated, on images that lie plane by plane (NCHW).
//
// A lane owns a column of `kDepthwiseRows` outputs of one channel; neighbouring lanes own neighbouring
// columns. A row of x is loaded once, three neighbours of it, and meets every output whose window it belongs
// to:
//
//     stride 1, rows of x    -1   0   1   2   3   4        loads for 4 outputs: 6 · 3, where tap by tap takes
//     36 outputs that see them   0   0   0   1   2   3
//                                 1   1   2   3
//                                     2   3
#pragma once

#include "conv2d/cuda/depthwise.cuh"

namespace tilewright::cuda::conv {

inline constexpr int kDepthwiseRows = 4;

// A unit is a warp's: 32 columns of one channel of an image, numbered along its strips of 4 rows of y.
template <class T, int stride>
TILEWRIGHT_KERNEL void __launch_bounds__(kDepthwiseThreads)
    depthwise_planes(const __grid_constant__ Depthwise d) {
  const uint32_t unit = (blockIdx.x * kDepthwiseThreads + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (unit >= d.units) return;
  const uint32_t rest = d.by_pixel_units.divide(unit), n = d.by_channel_units.divide(rest);
  const uint32_t place = d.by_pixel_units.remainder(unit, rest) * 32 + lane;
  const int k = static_cast<int>(d.by_channel_units.remainder(rest, n));
  const uint32_t strip = d.by_out_width.divide(place);
  const int q = static_cast<int>(d.by_out_width.remainder(place, strip));
  const int p = static_cast<int>(strip) * kDepthwiseRows;
  if (p >= d.out_height) return;

  const T* const x =
      static_cast<const T*>(d.x) + n * d.x_n + static_cast<int64_t>(d.by_group.divide(k)) * d.x_c;
  const T* const weight = static_cast<const T*>(d.weight) + k * d.weight_k;
  float taps[3][3];
#pragma unroll
  for (int r = 0; r < 3; ++r) {
#pragma unroll
    for (int s = 0; s < 3; ++s) taps[r][s] = to_float(weight[r * d.weight_r + s * d.weight_s]);
  }
  float sums[kDepthwiseRows] = {};
  const int first_row = p * stride - d.top, first_column = q * stride - d.left;
#pragma unroll
  for (int i = 0; i < (kDepthwiseRows - 1) * stride + 3; ++i) {
    const int row = first_row + i;
    if (static_cast<uint32_t>(row) >= static_cast<uint32_t>(d.height)) continue;
#pragma unroll
    for (int s = 0; s < 3; ++s) {
      const int column = first_column + s;
      const bool inside = static_cast<uint32_t>(column) < static_cast<uint32_t>(d.width);
      if (!inside) continue;
      const float value = to_float(x[row * d.x_h + column * d.x_w]);
#pragma unroll
      for (int out = 0; out < kDepthwiseRows; ++out) {
        const int r = i - out * stride;
        if (r >= 0 && r < 3) sums[out] += value * taps[r][s];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kDepthwiseRows; ++i) {
    if (p + i < d.out_height) d.output.finish_one(sums[i], n, k, p + i, q);
  }
}

}  // namespace tilewright::cuda::conv
