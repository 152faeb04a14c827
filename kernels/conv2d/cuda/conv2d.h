// What the CUDA convolution kernels are given: pointers, geometry and strides as plain numbers, and the table
// of what was compiled. Needs no CUDA header. See ../problem.py for the equation and ../README.md for the
// algorithms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cuda/types.h"

namespace tilewright::cuda {

// y[n, k, oy, ox] = act(sum over c, r, s of x[n, c, iy, ix] · w[k, c, r, s] + bias[k] + residual[n, k, oy,
// ox]) with iy = oy·stride_h - top + r·dilation_h, ix alike, and x zero outside of the image. Output channel
// k of group g sees that group's input channels. Sizes of 0 never reach a kernel, but for in_channels.
struct Conv2dArguments {
  const void* x;
  const void* weight;
  void* y;
  void* preact;          // null, or where the sum before the activation goes, laid out and typed like y
  const void* bias;      // null: none
  const void* residual;  // null: none

  int64_t batch, groups;
  int64_t in_channels, out_channels;  // of one group
  int64_t height, width, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int64_t top, left;  // padding, negative where the image is cropped; below and to the right out_* decides
  // Strides in elements, any whatever; those of the residual are 0 where it is broadcast.
  int64_t x_n, x_c, x_h, x_w;
  int64_t weight_k, weight_c, weight_r, weight_s;  // weight_k also leads from group to group
  int64_t y_n, y_k, y_h, y_w;
  int64_t residual_n, residual_k, residual_h, residual_w;
  int64_t bias_stride;

  DataType dtype;  // of x, weight and y
  DataType bias_type, residual_type;
  Activation activation;
  int alignment;  // bytes, 16 at most, that divide every pointer above; known before the pointers are

  // The config, beside what the instance fixes.
  int group_m;      // tiles of pixels that are walked together, for the sake of L2
  int split_k;      // parts that the sum is cut into
  bool stage_x;     // copy x to channels_last in the workspace first
  void* workspace;  // 16-byte aligned, of at least Conv2dInstance::workspace_bytes; null where that is 0
};

// One compiled tile of one algorithm. Copies narrower than 16 bytes are chosen within, by strides and
// alignment.
struct Conv2dInstance {
  const char* algorithm;    // implicit_gemm, depthwise, implicit_gemm_tma
  int capability;           // the least compute capability, as 80
  bool exact_architecture;  // runs on that capability alone (sm_90a)
  DataType dtype;
  bool tf32;  // f32 operands are multiplied as tf32; depthwise computes f32 in fp32
  int block_m, block_n, block_k;
  int num_warps, num_stages, cluster;
  int threads;
  size_t shared_bytes;
  // Why the instance cannot compute this, null if it can. Reads no pointer.
  const char* (*refuses)(const Conv2dArguments&);
  // Bytes of scratch that a launch needs. Reads no pointer.
  size_t (*workspace_bytes)(const Conv2dArguments&);
  // Throws Error where the device refuses; nothing is waited for.
  void (*launch)(const Conv2dArguments&, Stream);
};

// Every instance of this build.
std::span<const Conv2dInstance> conv2d_instances();

}  // namespace tilewright::cuda
