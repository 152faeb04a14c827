// What the CPU convolution kernels are given: geometry and tiles as plain numbers. See ../problem.py for the
// equation. Declarations only (see csrc/cpu/types.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/types.h"

namespace tilewright {

// y[n, k, oy, ox] = act(sum over c, r, s of x[n, c, iy, ix] · w[k, c, r, s] + bias[k] + residual[n, k, oy,
// ox]) with iy = oy·stride_h - top + r·dilation_h, ix alike, and x zero outside of the image. Output channel
// k of group g sees that group's input channels.
//
// weight_gradient has the geometry of the convolution whose weight's gradient it computes. It is given dy,
// laid out as y, in the weight's place, and writes dw, laid out as the weight, in y's.
struct Conv2dGeometry {
  int64_t batch, groups;
  int64_t in_channels, out_channels;  // of one group
  int64_t height, width, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int64_t top, left;  // padding, negative where the image is cropped; below and to the right out_* decides
  // Strides in elements.
  int64_t x_n, x_c, x_h, x_w;
  int64_t weight_g, weight_k, weight_c, weight_r, weight_s;  // the last two are negative in a flipped kernel
  int64_t weight_origin;                                     // of the first position of the window
  int64_t y_n, y_k, y_h, y_w;                                // y_k or y_w is 1, or nothing but y is stored
  int64_t residual_n, residual_k, residual_h, residual_w;
  Dtype dtype;  // of x, w and y
  Activation activation;
  bool has_bias, has_residual, keep_preact;
  bool bf16_units;  // as in Epilogue
  int64_t bias_stride;
  Dtype bias_dtype, residual_dtype;
  // The config; see CpuConfig in config.py.
  int64_t block_h, block_w, block_n, block_c;
  int64_t parts;
  bool frozen;  // the weight comes packed
  int threads;
};

struct Conv2dPointers {
  const void* x;
  const void* weight;  // frozen: the packed form
  void* y;
  void* preact;
  const void* bias;
  const void* residual;
};

// One compiled algorithm. `workspace` says how many bytes of scratch `run` needs.
struct Conv2dKernel {
  const char* algorithm;
  Compute compute;
  void (*run)(const Conv2dGeometry&, const Conv2dPointers&, void* workspace);
  size_t (*workspace)(const Conv2dGeometry&);
  // The bytes of the weight's packed form, and what writes it, for frozen weights.
  size_t (*packed_bytes)(const Conv2dGeometry&);
  void (*pack)(const Conv2dGeometry&, const void* weight, void* packed);
  // Why the algorithm cannot compute this, null if it can.
  const char* (*refuses)(const Conv2dGeometry&);
};

}  // namespace tilewright
