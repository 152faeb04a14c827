// From a convolution's arguments to the kernels of an implicit product: staging, the product, the sum of its
// parts.
#pragma once

#include "conv2d/cuda/implicit_gemm.cuh"
#include "conv2d/cuda/staging.cuh"
#include "conv2d/cuda/sum_parts.cuh"

namespace tilewright::cuda::conv {

// Whether copies narrower than 16 bytes were compiled for a tile.
enum class Copies { sixteen, any };

inline GatherImage image_of(const Conv2dArguments& a, const ImplicitGemmPlan& plan, int block_k) {
  GatherImage image{};
  image.x_n = plan.x_n;
  image.height = static_cast<int>(a.height), image.width = static_cast<int>(a.width);
  image.stride_h = static_cast<int>(a.stride_h), image.stride_w = static_cast<int>(a.stride_w);
  image.top = static_cast<int>(a.top), image.left = static_cast<int>(a.left);
  image.rows = static_cast<uint32_t>(a.batch * a.out_height * a.out_width);
  image.by_pixels = FastDivisor(a.out_height * a.out_width);
  image.by_out_width = FastDivisor(a.out_width);
  Taps& taps = image.taps;
  taps.channels = static_cast<int>(std::max<int64_t>(plan.channels, 1));
  taps.taps_w = static_cast<int>(a.kernel_w);
  taps.terms = static_cast<int>(plan.channels * a.kernel_h * a.kernel_w);
  taps.dilation_h = static_cast<int>(a.dilation_h), taps.dilation_w = static_cast<int>(a.dilation_w);
  taps.window_w = static_cast<int>(a.kernel_w * a.dilation_w);
  taps.x_c = plan.x_c, taps.x_h = plan.x_h, taps.x_w = plan.x_w;
  taps.carry_c = a.dilation_w * plan.x_w - taps.channels * plan.x_c;
  taps.carry_s = a.dilation_h * plan.x_h - taps.window_w * plan.x_w;
  taps.by_channels = FastDivisor(taps.channels);
  taps.by_taps_w = FastDivisor(a.kernel_w);
  image.tile = taps.step(block_k);
  image.element = taps.step(1);
  return image;
}

// The output of a sum in parts: fp32, as it is.
inline ConvOutput part_output(float* parts, int64_t all_channels, int64_t group_channels) {
  ConvOutput out{};
  Epilogue& e = out.epilogue;
  e.y = parts;
  e.y_strides[3] = 1;
  e.y_vectors = all_channels % 4 == 0 && group_channels % 4 == 0;
  return out;
}

// Whether eight pixels that begin at a multiple of eight are neighbours in y and evenly apart in the
// residual; the epilogue's vectors are then pixels'.
inline bool find_runs(const Conv2dArguments& a, ConvOutput& out) {
  const bool rows = a.out_height == 1 || a.y_h == a.out_width;
  const bool addends =
      a.residual == nullptr || a.out_height == 1 || a.residual_h == a.out_width * a.residual_w;
  Epilogue& e = out.epilogue;
  const int64_t y[] = {a.batch > 1 ? a.y_n : 0, a.y_k}, residual[] = {a.residual_n, a.residual_k};
  e.y_vectors = is_vector(a.y, a.dtype, a.y_w, y, 2) && reinterpret_cast<uintptr_t>(a.preact) % 16 == 0;
  e.residual_vectors = is_vector(a.residual, a.residual_type, a.residual_w, residual, 2);
  return rows && addends && a.out_height * a.out_width % 8 == 0;
}

// Tiles of k of a part; parts that would have none are left out.
inline int64_t part_tiles_of(const Conv2dArguments& a, int64_t tiles) {
  return std::max<int64_t>(ceil_div(tiles, std::max(a.split_k, 1)), 1);
}

template <class Shape, Copies copies>
void launch_implicit_gemm(const Conv2dArguments& a, Stream stream) {
  using Element = typename Shape::Element;
  const ImplicitGemmPlan plan = plan_of(a);
  launch_staging<Element>(a, plan, stream);

  ImplicitGemm g{};
  char* const workspace = static_cast<char*>(a.workspace);
  g.image = image_of(a, plan, Shape::kK);
  g.x = plan.stages_x ? workspace : a.x;
  g.weight = plan.packs_weight ? workspace + plan.weight_at : a.weight;
  g.x_group = plan.channels * plan.x_c;
  g.weight_pitch = plan.pitch;
  g.channels = static_cast<int>(a.out_channels);
  g.depth = static_cast<int>(plan.depth);
  const int64_t tiles_m = ceil_div(g.image.rows, Shape::kM), tiles_n = ceil_div(a.out_channels, Shape::kN);
  g.tiles_m = static_cast<uint32_t>(tiles_m);
  g.tiles_n = static_cast<uint32_t>(tiles_n);
  g.group_m = static_cast<uint32_t>(std::clamp<int64_t>(a.group_m, 1, tiles_m));
  const int64_t tiles_k = ceil_div(plan.depth, Shape::kK), part_tiles = part_tiles_of(a, tiles_k);
  const int64_t parts = std::max<int64_t>(ceil_div(tiles_k, part_tiles), 1);
  g.part_tiles = static_cast<int>(part_tiles);
  g.all_channels = a.groups * a.out_channels;
  if (parts > 1) {
    g.parts = reinterpret_cast<float*>(workspace + plan.parts_at);
    g.output = part_output(g.parts, g.all_channels, a.groups > 1 ? a.out_channels : 0);
  } else {
    g.output = output_of(a);
    g.planes = a.y_w == 1 && a.y_k != 1;
    g.runs = g.planes && find_runs(a, g.output);
  }
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(tiles_m * tiles_n * a.groups), static_cast<unsigned>(parts), 1);
  shape.threads = Shape::kThreads;
  shape.shared_bytes = kImplicitGemmShared<Shape>;
  const auto start = [&](auto kernel) { launch(kernel, shape, stream, g); };
  if (plan.copy == 16) {
    start(implicit_gemm<Shape, GatherVectors<Element, 16, Shape>>);
  } else if constexpr (copies == Copies::any) {
    if (plan.copy != 8) {
      start(implicit_gemm<Shape, GatherElements<Element, Shape>>);
    } else if constexpr (sizeof(Element) == 2) {
      start(implicit_gemm<Shape, GatherVectors<Element, 8, Shape>>);
    }
  }
  if (parts == 1) return;

  SumParts s{};
  s.parts = g.parts;
  s.count = static_cast<int>(parts);
  s.rows = g.image.rows;
  s.channels = static_cast<uint32_t>(g.all_channels);
  s.planes = a.y_w == 1 && a.y_k != 1;
  s.vectors = g.all_channels % 4 == 0;
  s.by_rows = FastDivisor(s.rows);
  s.by_octets = FastDivisor(ceil_div(s.channels, 8));
  s.by_pixels = g.image.by_pixels;
  s.by_out_width = g.image.by_out_width;
  s.output = output_of(a);
  LaunchShape sum;
  sum.grid = dim3(blocks_of(s.rows * ceil_div(s.channels, 8), kSumThreads), 1, 1);
  sum.threads = kSumThreads;
  launch(sum_parts<>, sum, stream, s);
}

template <class Shape, Copies copies>
const char* implicit_gemm_refuses(const Conv2dArguments& a) {
  if (const char* why = size_refusal(a)) return why;
  const int64_t rows = a.batch * a.out_height * a.out_width, channels = a.groups * a.out_channels;
  if (rows > kMostUnits) return "counts the pixels of the batch with 31 bits, and there are more";
  if (ceil_div(rows, Shape::kM) * ceil_div(a.out_channels, Shape::kN) * a.groups > kMostUnits) {
    return "counts blocks with 31 bits, and there are more";
  }
  if (a.split_k < 1 || a.split_k > 65535) return "split_k must be 1 to 65535";
  if (a.split_k > 1 && rows * ceil_div(channels, 8) > kMostUnits) {
    return "counts the threads that add the parts of sums with 31 bits, and there are more";
  }
  const int64_t widest = a.in_channels + 8;
  if (widest * a.kernel_h * a.kernel_w > kMostUnits || channels * widest > kMostUnits) {
    return "counts the terms of a sum with 31 bits, and there are more";
  }
  if (a.stage_x) {
    if (a.in_channels == 0) return "has no channels to copy";
    if (copy_of(a) == 16) return "copies x to channels_last, which it is in already";
    if (a.batch * a.height * a.width > kMostUnits || a.groups * widest > (int64_t{1} << 21)) {
      return "copies at most 2^31 pixels of 2^21 channels";
    }
  }
  if (copies == Copies::sixteen && plan_of(a).copy != 16) {
    return "copies 16 bytes at a time: channels of a group must lie side by side, and they, pixels, rows, "
           "images and "
           "pointers be multiples of 16 bytes; copy x to channels_last or take a tile with narrower copies";
  }
  return nullptr;
}

template <class Shape, Copies copies>
constexpr Conv2dInstance implicit_gemm_instance(DataType dtype) {
  Conv2dInstance found{};
  found.algorithm = "implicit_gemm";
  found.capability = 80;
  found.dtype = dtype;
  found.tf32 = dtype == DataType::f32;
  found.block_m = Shape::kM;
  found.block_n = Shape::kN;
  found.block_k = Shape::kK;
  found.num_warps = Shape::kThreads / 32;
  found.num_stages = Shape::kStages;
  found.cluster = 1;
  found.threads = Shape::kThreads;
  found.shared_bytes = kImplicitGemmShared<Shape>;
  found.refuses = implicit_gemm_refuses<Shape, copies>;
  found.workspace_bytes = implicit_gemm_workspace;
  found.launch = launch_implicit_gemm<Shape, copies>;
  return found;
}

template <class T, int block_m, int block_n, int block_k, int warps_m, int warps_n, int stages>
using ConvShape = BlockShape<T, block_m, block_n, block_k, warps_m, warps_n, stages, Major::k, Major::k>;

// Pixels × channels. 64 channels are what early layers have, 16 and 32 what groups often have. Stages are as
// many as two blocks of a multiprocessor leave room for on sm_80 (164 KB), and one block of the largest tiles
// on sm_86 (100 KB).
template <class T, DataType type>
inline constexpr Conv2dInstance kSixteenBit[] = {
    implicit_gemm_instance<ConvShape<T, 128, 256, 32, 2, 4, 3>, Copies::sixteen>(type),
    implicit_gemm_instance<ConvShape<T, 256, 128, 32, 4, 2, 3>, Copies::sixteen>(type),
    implicit_gemm_instance<ConvShape<T, 128, 128, 64, 2, 4, 3>, Copies::sixteen>(type),
    implicit_gemm_instance<ConvShape<T, 128, 128, 32, 2, 2, 4>, Copies::sixteen>(type),
    implicit_gemm_instance<ConvShape<T, 256, 64, 32, 4, 1, 4>, Copies::sixteen>(type),
    implicit_gemm_instance<ConvShape<T, 128, 64, 64, 2, 2, 3>, Copies::sixteen>(type),
    implicit_gemm_instance<ConvShape<T, 128, 64, 32, 2, 2, 4>, Copies::any>(type),
    implicit_gemm_instance<ConvShape<T, 64, 64, 64, 2, 2, 4>, Copies::any>(type),
    implicit_gemm_instance<ConvShape<T, 128, 32, 32, 4, 1, 4>, Copies::any>(type),
    implicit_gemm_instance<ConvShape<T, 128, 16, 64, 4, 1, 3>, Copies::any>(type),
};

}  // namespace tilewright::cuda::conv
