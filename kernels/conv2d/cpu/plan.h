// A convolution whose geometry was checked once, ready to run any number of times.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "instances.h"

namespace tilewright {

using Pair = std::array<int64_t, 2>;
using Strides = std::array<int64_t, 4>;

// What a caller says; every field is checked by Conv2dPlan. See kernels/conv2d/problem.py for the meaning.
struct Conv2dRequest {
  std::string isa, algorithm, compute;
  int64_t batch, in_channels, out_channels, groups;  // channels of all groups together
  Pair size, out_size, kernel, stride, dilation;     // height, width
  Pair padding;                                      // top, left; negative: the image is cropped
  Strides x_strides, weight_strides, y_strides;      // (n, c, h, w), (k, c, r, s), (n, k, h, w)
  int64_t weight_group_stride;
  bool flipped;  // the kernel is walked from its last row and column to its first
  int64_t bias_stride;
  std::optional<Strides> residual_strides;  // (n, k, h, w)
  std::string dtype;
  std::optional<std::string> bias_dtype, residual_dtype;
  std::string activation;
  bool keep_preact;
  int64_t block_h, block_w, block_n, block_c;  // see CpuConfig in config.py, as for the rest
  int64_t parts;
  bool frozen;
  int threads;
};

class Conv2dPlan {
 public:
  // Throws std::invalid_argument with a sentence that names the field.
  explicit Conv2dPlan(const Conv2dRequest& request);

  // Computes into p.y (and p.preact). Many threads may run one plan at once. Throws std::invalid_argument
  // where a pointer that the geometry needs is null, std::bad_alloc where scratch memory is not to be had.
  void run(const Conv2dPointers& p) const;

  // Where the weight is frozen: the size of its packed form, which takes the place of p.weight, and what
  // writes it.
  size_t packed_bytes() const;
  void pack(const void* weight, void* packed) const;

  size_t workspace_bytes() const {
    return workspace_bytes_;
  }

 private:
  bool empty() const;

  Conv2dGeometry geometry_{};
  const Conv2dKernel* kernel_ = nullptr;
  size_t workspace_bytes_ = 0;
};

}  // namespace tilewright
