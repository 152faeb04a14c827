// Which depthwise kernel serves which layout and window, and its grid.
#pragma once

#include <algorithm>

#include "conv2d/cuda/depthwise_planes.cuh"
#include "conv2d/cuda/depthwise_vectors.cuh"
#include "conv2d/cuda/limits.h"
#include "cuda/launch.cuh"

namespace tilewright::cuda::conv {

inline constexpr int64_t kDepthwiseMostInputs = 8;  // channels of a group
inline constexpr int64_t kDepthwiseWarps = kDepthwiseThreads / 32;
inline constexpr int64_t kDepthwiseSliceBytes = 48 * 1024;

inline bool plane_by_plane(const Conv2dArguments& a) {
  return a.y_w == 1 && a.y_k != 1;
}

inline const char* depthwise_refuses(const Conv2dArguments& a) {
  if (a.groups == 1 && a.in_channels > 1) return "is for groups of few channels, and there is one group";
  if (a.in_channels > kDepthwiseMostInputs) return "takes groups of at most 8 input channels";
  if (a.stage_x) return "reads x as it is";
  if (a.split_k != 1) return "does not split its sums";
  // Units of every kernel are at least as large as one output.
  if (a.batch * a.groups * a.out_channels * a.out_height > kMostUnits ||
      a.batch * a.groups * a.out_channels * ceil_div(a.out_height * a.out_width, 4) > kMostUnits) {
    return "numbers its tiles with 31 bits, and there are more";
  }
  return size_refusal(a);
}

inline Depthwise depthwise_of(const Conv2dArguments& a) {
  Depthwise d{};
  d.x = a.x;
  d.weight = a.weight;
  d.x_n = a.x_n, d.x_c = a.x_c, d.x_h = a.x_h, d.x_w = a.x_w;
  d.weight_k = a.weight_k, d.weight_c = a.weight_c, d.weight_r = a.weight_r, d.weight_s = a.weight_s;
  d.in_channels = static_cast<int>(a.in_channels);
  d.out_channels = static_cast<int>(a.groups * a.out_channels);
  d.height = static_cast<int>(a.height), d.width = static_cast<int>(a.width);
  d.out_height = static_cast<int>(a.out_height), d.out_width = static_cast<int>(a.out_width);
  d.taps_h = static_cast<int>(a.kernel_h), d.taps_w = static_cast<int>(a.kernel_w);
  d.stride_h = static_cast<int>(a.stride_h), d.stride_w = static_cast<int>(a.stride_w);
  d.dilation_h = static_cast<int>(a.dilation_h), d.dilation_w = static_cast<int>(a.dilation_w);
  d.top = static_cast<int>(a.top), d.left = static_cast<int>(a.left);
  d.by_out_width = FastDivisor(a.out_width);
  d.by_group = FastDivisor(a.out_channels);
  d.output = output_of(a);
  return d;
}

inline void number_units(Depthwise& d, int64_t pixel_units, int64_t channel_units, int64_t images) {
  d.by_pixel_units = FastDivisor(pixel_units);
  d.by_channel_units = FastDivisor(channel_units);
  d.units = static_cast<uint32_t>(pixel_units * channel_units * images);
}

template <class... Parameters>
void launch_units(void (*kernel)(Parameters...), const Depthwise& d, Stream stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(ceil_div(d.units, kDepthwiseWarps)), 1, 1);
  shape.threads = kDepthwiseThreads;
  launch(kernel, shape, stream, d);
}

// Whether 8 channels of x begin at every eighth and can be read at once.
inline bool depthwise_vectors_fit(const Conv2dArguments& a) {
  const int64_t strides[] = {a.batch > 1 ? a.x_n : 0, a.height > 1 ? a.x_h : 0, a.width > 1 ? a.x_w : 0};
  return a.in_channels == 1 && a.out_channels == 1 && a.groups % kVector == 0 &&
         is_vector(a.x, a.dtype, a.x_c, strides, 3);
}

template <class T>
void launch_depthwise_vectors(const Conv2dArguments& a, Stream stream) {
  DepthwiseVectors v{};
  v.d = depthwise_of(a);
  number_units(v.d, ceil_div(a.out_width, kDepthwisePixels), a.out_height, a.batch);
  // As many vectors side by side as leave few lanes without one.
  const int64_t vectors = a.groups / kVector;
  v.log_lanes = 4;
  while (v.log_lanes > 0 && round_up(vectors, int64_t{1} << v.log_lanes) * 8 > vectors * 9) --v.log_lanes;
  const int64_t tap_bytes = (kVector << v.log_lanes) * int64_t{sizeof(float)}, taps = a.kernel_h * a.kernel_w;
  v.slice = static_cast<int>(std::min(taps, kDepthwiseSliceBytes / tap_bytes));
  const int64_t strips = kDepthwiseThreads >> v.log_lanes,
                channel_blocks = ceil_div(vectors, int64_t{1} << v.log_lanes);
  // Weights are staged once for all rounds, but a device wants a few hundred blocks.
  constexpr int64_t kMostRounds = 8, kBlocks = 1024;
  const int64_t blocks = ceil_div(int64_t{v.d.units}, strips);
  v.rounds = static_cast<int>(std::clamp(blocks * channel_blocks / kBlocks, int64_t{1}, kMostRounds));
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<unsigned>(ceil_div(blocks, v.rounds)), static_cast<unsigned>(channel_blocks), 1);
  shape.threads = kDepthwiseThreads;
  shape.shared_bytes = static_cast<size_t>(v.slice * tap_bytes);
  const bool unrolled = a.dilation_h == 1 && a.dilation_w == 1 && v.slice == taps;
  if (unrolled && a.kernel_w == 3 && a.stride_w == 1)
    return launch(depthwise_vectors<T, 3, 1>, shape, stream, v);
  if (unrolled && a.kernel_w == 3 && a.stride_w == 2)
    return launch(depthwise_vectors<T, 3, 2>, shape, stream, v);
  if (unrolled && a.kernel_w == 5 && a.stride_w == 1)
    return launch(depthwise_vectors<T, 5, 1>, shape, stream, v);
  launch(depthwise_vectors<T, 0, 0>, shape, stream, v);
}

template <class T>
void launch_depthwise(const Conv2dArguments& a, Stream stream) {
  if (depthwise_vectors_fit(a)) return launch_depthwise_vectors<T>(a, stream);
  Depthwise d = depthwise_of(a);
  const int64_t pixels = a.out_height * a.out_width, channels = a.groups * a.out_channels;
  if (!plane_by_plane(a)) {
    number_units(d, ceil_div(pixels, kDepthwisePixels), ceil_div(channels, 32), a.batch);
    return launch_units(depthwise<T, false>, d, stream);
  }
  const bool unrolled = a.in_channels == 1 && a.kernel_h == 3 && a.kernel_w == 3 && a.dilation_h == 1 &&
                        a.dilation_w == 1 && a.stride_h == a.stride_w && a.stride_h <= 2;
  if (!unrolled) {
    number_units(d, ceil_div(pixels, 32 * kDepthwisePixels), channels, a.batch);
    return launch_units(depthwise<T, true>, d, stream);
  }
  number_units(d, ceil_div(ceil_div(a.out_height, kDepthwiseRows) * a.out_width, 32), channels, a.batch);
  if (a.stride_h == 1) return launch_units(depthwise_planes<T, 1>, d, stream);
  launch_units(depthwise_planes<T, 2>, d, stream);
}

inline size_t no_workspace(const Conv2dArguments&) {
  return 0;
}

template <class T>
Conv2dInstance depthwise_of_type() {
  Conv2dInstance found{};
  found.algorithm = "depthwise";
  found.capability = 80;
  found.dtype = kTypeOf<T>;
  found.block_m = kDepthwisePixels;
  found.block_n = 32;
  found.block_k = 1;
  found.num_warps = kDepthwiseThreads / 32;
  found.num_stages = 1;
  found.cluster = 1;
  found.threads = kDepthwiseThreads;
  found.shared_bytes = kDepthwiseSliceBytes;
  found.refuses = depthwise_refuses;
  found.workspace_bytes = no_workspace;
  found.launch = launch_depthwise<T>;
  return found;
}

}  // namespace tilewright::cuda::conv
