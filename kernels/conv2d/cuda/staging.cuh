// Launches the copies of operands that a plan asks for.
#pragma once

#include "conv2d/cuda/implicit_gemm_plan.h"
#include "conv2d/cuda/stage.cuh"
#include "cuda/launch.cuh"

namespace tilewright::cuda::conv {

template <class Element>
using Bits = std::conditional_t<sizeof(Element) == 2, uint16_t, uint32_t>;

inline unsigned blocks_of(int64_t units, int64_t per_block) {
  return static_cast<unsigned>(ceil_div(units, per_block));
}

template <class Element>
void launch_staging(const Conv2dArguments& a, const ImplicitGemmPlan& plan, Stream stream) {
  char* const workspace = static_cast<char*>(a.workspace);
  if (plan.stages_x) {
    StageImage s{};
    s.x = a.x;
    s.staged = workspace;
    s.pixels = static_cast<uint32_t>(a.batch * a.height * a.width);
    s.channels = static_cast<int>(a.in_channels);
    s.padded = static_cast<int>(plan.channels);
    s.columns = a.groups * plan.channels;
    s.x_n = a.x_n, s.x_c = a.x_c, s.x_h = a.x_h, s.x_w = a.x_w;
    s.by_pixels = FastDivisor(a.height * a.width);
    s.by_width = FastDivisor(a.width);
    s.by_padded = FastDivisor(plan.channels);
    LaunchShape shape;
    shape.grid = dim3(blocks_of(s.pixels, kStagePixels),
                      blocks_of(s.columns, kStageWords * (4 / static_cast<int>(sizeof(Element)))), 1);
    shape.threads = kStageThreads;
    shape.shared_bytes = kStageShared;
    launch(stage_image<Bits<Element>>, shape, stream, s);
  }
  if (plan.packs_weight && plan.depth > 0) {
    PackWeight p{};
    p.weight = a.weight;
    p.packed = workspace + plan.weight_at;
    p.rows = static_cast<uint32_t>(a.groups * a.out_channels);
    p.channels = static_cast<int>(a.in_channels);
    p.padded = static_cast<int>(plan.channels);
    p.taps_h = static_cast<int>(a.kernel_h), p.taps_w = static_cast<int>(a.kernel_w);
    p.weight_k = a.weight_k, p.weight_c = a.weight_c, p.weight_r = a.weight_r, p.weight_s = a.weight_s;
    p.pitch = plan.pitch;
    p.by_padded = FastDivisor(plan.channels);
    LaunchShape shape;
    shape.grid = dim3(blocks_of(p.rows * plan.channels, kPackThreads), 1, 1);
    shape.threads = kPackThreads;
    launch(pack_weight<Bits<Element>>, shape, stream, p);
  }
}

}  // namespace tilewright::cuda::conv
