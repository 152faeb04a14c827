// How an implicit product reads its operands, and what it needs a workspace for:
//
//     x staged | weight packed | parts of the sums          each absent or a multiple of 16 bytes
//
// Needs no CUDA header.
#pragma once

#include <algorithm>

#include "conv2d/cuda/limits.h"

namespace tilewright::cuda::conv {

struct ImplicitGemmPlan {
  int copy;  // bytes of a copy of x: 16, 8, or an element's
  bool stages_x, packs_weight;
  int64_t channels;  // of a group, as they lie in x: in_channels, or more where staging pads them
  int64_t x_n, x_c, x_h, x_w;
  int64_t pitch;                      // elements from row to row of the weight
  int64_t depth;                      // terms of its rows
  size_t weight_at, parts_at, bytes;  // of the workspace
};

// The widest copies that x admits as it is.
inline int copy_of(const Conv2dArguments& a) {
  const int element = size_of(a.dtype);
  if (a.x_c != 1 && a.groups * a.in_channels > 1) return element;
  for (const int bytes : {16, 8}) {
    if (bytes == 8 && element == 4) break;
    const auto whole = [&](int64_t size, int64_t stride) {
      return size <= 1 || stride * element % bytes == 0;
    };
    if (a.alignment % bytes == 0 && a.in_channels * element % bytes == 0 && whole(a.batch, a.x_n) &&
        whole(a.height, a.x_h) && whole(a.width, a.x_w)) {
      return bytes;
    }
  }
  return element;
}

inline ImplicitGemmPlan plan_of(const Conv2dArguments& a) {
  const int element = size_of(a.dtype), vector = 16 / element;
  const int64_t taps = a.kernel_h * a.kernel_w;
  ImplicitGemmPlan plan{};
  plan.channels = a.in_channels;
  plan.x_n = a.x_n, plan.x_c = a.x_c, plan.x_h = a.x_h, plan.x_w = a.x_w;
  plan.copy = copy_of(a);
  if (a.stage_x) {
    plan.stages_x = true;
    // Four channels of 16 bits are copied as 8 bytes: a stem of three pays for one more, not for five.
    const bool half = element == 2 && a.in_channels <= 4;
    plan.copy = half ? 8 : 16;
    plan.channels = round_up(std::max<int64_t>(a.in_channels, 1), half ? 4 : vector);
    plan.x_c = 1;
    plan.x_w = a.groups * plan.channels;
    plan.x_h = a.width * plan.x_w;
    plan.x_n = a.height * plan.x_h;
  }
  plan.depth = round_up(taps * plan.channels, vector);
  plan.packs_weight = true;
  plan.pitch = plan.depth;
  const bool ordered = (a.in_channels == 1 || a.weight_c == 1) &&
                       (a.kernel_w == 1 || a.weight_s == a.in_channels) &&
                       (a.kernel_h == 1 || a.weight_r == a.in_channels * a.kernel_w);
  const int64_t rows = a.groups * a.out_channels;
  if (ordered && plan.channels == a.in_channels && plan.depth == taps * a.in_channels &&
      a.alignment % 16 == 0 && (rows == 1 || a.weight_k * element % 16 == 0)) {
    plan.packs_weight = false;
    plan.pitch = a.weight_k;
  }
  const auto whole = [](int64_t bytes) { return static_cast<size_t>(round_up(bytes, 128)); };
  plan.weight_at = plan.stages_x ? whole(a.batch * plan.x_n * element) : 0;
  plan.parts_at = plan.weight_at + (plan.packs_weight ? whole(rows * plan.pitch * element) : 0);
  plan.bytes = plan.parts_at;
  if (a.split_k > 1) plan.bytes += whole(a.split_k * a.batch * a.out_height * a.out_width * rows * 4);
  return plan;
}

inline size_t implicit_gemm_workspace(const Conv2dArguments& a) {
  return plan_of(a).bytes;
}

}  // namespace tilewright::cuda::conv
