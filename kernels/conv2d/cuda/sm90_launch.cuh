// The host's side of the sm_90a convolution: what the TMA cannot walk, tensor maps, rows of the table.
#pragma once

#include "conv2d/cuda/implicit_gemm_plan.h"
#include "conv2d/cuda/sm90.cuh"
#include "conv2d/cuda/staging.cuh"
#include "matmul/cuda/sm90_launch.cuh"

namespace tilewright::cuda::conv {

constexpr int64_t kFarthestCorner = 127, kFarthestTap = 255, kLongestStride = 8;

// The product that the convolution is, with y and residual as matrices of pixels × channels.
inline MatmulArguments product_of(const Conv2dArguments& a, int block_k) {
  MatmulArguments g;
  g.m = a.batch * a.out_height * a.out_width;
  g.n = a.out_channels;
  g.k = a.kernel_h * a.kernel_w * round_up(a.in_channels, block_k);
  g.group_m = a.group_m;
  Epilogue& e = g.epilogue;
  e.activation = a.activation;
  e.y_type = a.dtype, e.bias_type = a.bias_type, e.residual_type = a.residual_type;
  e.y = a.y, e.preact = a.preact, e.bias = a.bias, e.residual = a.residual;
  e.bias_strides[2] = a.bias_stride;
  // From pixel to pixel: where the image is one column wide, that is from row to row.
  const auto step = [&](int64_t n, int64_t h, int64_t w) {
    return a.out_width > 1 ? w : a.out_height > 1 ? h : a.batch > 1 ? n : 0;
  };
  e.y_strides[2] = step(a.y_n, a.y_h, a.y_w);
  e.y_strides[3] = a.y_k;
  e.residual_strides[2] = step(a.residual_n, a.residual_h, a.residual_w);
  e.residual_strides[3] = a.residual_k;
  find_vectors(e);
  return g;
}

// Whether pixels of the batch lie evenly apart.
inline bool even_pixels(const Conv2dArguments& a, int64_t n, int64_t h, int64_t w) {
  if (a.out_width > 1 && a.out_height > 1 && h != a.out_width * w) return false;
  const int64_t pixel = a.out_width > 1 ? w : h;
  return a.batch == 1 || a.out_width * a.out_height == 1 || n == a.out_width * a.out_height * pixel;
}

// The bounding box's far corner, counted from the image's last pixel.
inline int64_t upper_corner(int64_t out, int64_t stride, int64_t before, int64_t size) {
  return (out - 1) * stride - before - (size - 1);
}

template <class Tile, int cluster>
const char* sm90_conv_refuses(const Conv2dArguments& a) {
  if (a.groups != 1) return "takes one group";
  if (a.in_channels == 0) return "has no channels to multiply";
  if (a.split_k != 1) return "takes no split_k but 1";
  if (const char* why = size_refusal(a)) return why;
  if (a.stage_x && copy_of(a) == 16) return "copies x to channels_last, which it is in already";
  const ImplicitGemmPlan plan = plan_of(a);
  if (plan.copy != 16) {
    return "x must be in channels_last, with channels, pixels, rows, images and pointers that are multiples "
           "of 16 "
           "bytes; or copied so";
  }
  const auto walks = [&](int64_t size, int64_t stride) {
    return size == 1 || (stride > 0 && stride * size_of(a.dtype) < kTmaStrideLimit);
  };
  if (!walks(a.batch, plan.x_n) || !walks(a.height, plan.x_h) || !walks(a.width, plan.x_w) ||
      !walks(a.out_channels, plan.pitch)) {
    return "x has a dimension that is repeated or 2^40 bytes apart, which the TMA does not walk";
  }
  if (a.stride_h > kLongestStride || a.stride_w > kLongestStride)
    return "the TMA walks in steps of at most 8 pixels";
  if ((a.kernel_h - 1) * a.dilation_h > kFarthestTap || (a.kernel_w - 1) * a.dilation_w > kFarthestTap) {
    return "the TMA reaches at most 255 pixels beyond a window's corner";
  }
  for (const int64_t corner : {-a.top, -a.left, upper_corner(a.out_height, a.stride_h, a.top, a.height),
                               upper_corner(a.out_width, a.stride_w, a.left, a.width)}) {
    if (corner < -kFarthestCorner - 1 || corner > kFarthestCorner) {
      return "the corners of the windows lie more than 127 pixels from the image's, which the TMA cannot "
             "describe";
    }
  }
  if (!even_pixels(a, a.y_n, a.y_h, a.y_w) || !even_pixels(a, a.residual_n, a.residual_h, a.residual_w)) {
    return "stores rows of a matrix: pixels of y, and of the residual, must lie evenly apart";
  }
  const MatmulArguments g = product_of(a, Tile::kBlockK);
  constexpr int64_t kLimit = int64_t{1} << 30;
  if (g.m > kLimit || tile_rows<Tile, cluster>(g) * tile_columns<Tile, cluster>(g) > kLimit) {
    return "there are more than 2^30 pixels or tiles";
  }
  return nullptr;
}

template <class Tile, int cluster>
void sm90_conv_launch(const Conv2dArguments& a, Stream stream) {
  using Element = std::conditional_t<sizeof(typename Tile::Element) == 4, float, typename Tile::Element>;
  const ImplicitGemmPlan plan = plan_of(a);
  launch_staging<Element>(a, plan, stream);
  char* const workspace = static_cast<char*>(a.workspace);
  const void* const x = plan.stages_x ? workspace : a.x;
  const void* const weight = plan.packs_weight ? workspace + plan.weight_at : a.weight;

  const MatmulArguments g = product_of(a, Tile::kBlockK);
  Sm90Conv c{};
  Sm90Problem& p = c.product;
  p.m = static_cast<int>(g.m);
  p.n = static_cast<int>(g.n);
  p.k = static_cast<int>(g.k);
  p.cluster = cluster;
  p.rows = static_cast<int>(tile_rows<Tile, cluster>(g));
  p.columns = static_cast<int>(tile_columns<Tile, cluster>(g));
  p.group = std::clamp(g.group_m / (Tile::kSharesB ? cluster : 1), 1, p.rows);
  p.batch1 = 1;
  p.count = p.rows * p.columns;
  p.bulk = stores_in_bulk<Tile>(g, g.epilogue);
  c.channels = static_cast<int>(plan.channels);
  c.taps_h = static_cast<int>(a.kernel_h), c.taps_w = static_cast<int>(a.kernel_w);
  c.stride_h = static_cast<int>(a.stride_h), c.stride_w = static_cast<int>(a.stride_w);
  c.top = static_cast<int>(a.top), c.left = static_cast<int>(a.left);
  c.dilation_h = static_cast<int>(a.dilation_h), c.dilation_w = static_cast<int>(a.dilation_w);
  c.by_pixels = FastDivisor(a.out_height * a.out_width);
  c.by_out_width = FastDivisor(a.out_width);

  const auto unsigned_of = [](int64_t value) { return static_cast<uint64_t>(value); };
  const auto bytes = [&](int64_t size, int64_t stride) {
    return size > 1 ? unsigned_of(stride * size_of(a.dtype)) : uint64_t{16};
  };
  const uint64_t x_sizes[] = {unsigned_of(plan.channels), unsigned_of(a.width), unsigned_of(a.height),
                              unsigned_of(a.batch)};
  const uint64_t x_strides[] = {bytes(a.width, plan.x_w), bytes(a.height, plan.x_h),
                                bytes(a.batch, plan.x_n)};
  const int lower[] = {-c.left, -c.top};
  const int upper[] = {static_cast<int>(upper_corner(a.out_width, a.stride_w, a.left, a.width)),
                       static_cast<int>(upper_corner(a.out_height, a.stride_h, a.top, a.height))};
  const uint32_t steps[] = {1, static_cast<uint32_t>(a.stride_w), static_cast<uint32_t>(a.stride_h), 1};
  const TensorMap x_map =
      im2col_map(a.dtype, x, x_sizes, x_strides, lower, upper, static_cast<uint32_t>(Tile::kBlockK),
                 static_cast<uint32_t>(Tile::kBlockM / (Tile::kSharesB ? 1 : cluster)), steps, Swizzle::b128);

  // (c, k, s, r), in the order that load_operand has coordinates.
  const uint64_t weight_sizes[] = {unsigned_of(plan.channels), unsigned_of(a.out_channels),
                                   unsigned_of(a.kernel_w), unsigned_of(a.kernel_h)};
  const uint64_t weight_strides[] = {bytes(a.out_channels, plan.pitch), bytes(a.kernel_w, plan.channels),
                                     bytes(a.kernel_h, plan.channels * a.kernel_w)};
  const uint32_t box[] = {static_cast<uint32_t>(Tile::kBlockK),
                          static_cast<uint32_t>(Tile::kBlockN / (Tile::kSharesB ? cluster : 1)), 1, 1};
  const TensorMap weight_map =
      tiled_map(a.dtype, 4, weight, weight_sizes, weight_strides, box, Swizzle::b128);
  TensorMap y_map{};
  if (p.bulk) {
    y_map = matrix_map(y_matrix(g), a.y, static_cast<uint32_t>(Tile::kRowBytes / size_of(a.dtype)), 64);
  }
  LaunchShape shape;
  const int clusters = std::min(p.count, std::max(1, multiprocessors() / cluster));
  shape.grid = dim3(static_cast<unsigned>(clusters * cluster), 1, 1);
  shape.threads = Tile::kThreads;
  shape.cluster = cluster;
  shape.shared_bytes = Tile::kSharedBytes;
  launch(&sm90_conv2d<Tile>, shape, stream, x_map, weight_map, y_map, c, g.epilogue);
}

template <class Tile, int cluster>
constexpr Conv2dInstance sm90_conv_instance() {
  return {.algorithm = "implicit_gemm_tma",
          .capability = 90,
          .exact_architecture = true,
          .dtype = kElementType<Tile>,
          .tf32 = kElementType<Tile> == DataType::f32,
          .block_m = Tile::kBlockM,
          .block_n = Tile::kBlockN,
          .block_k = Tile::kBlockK,
          .num_warps = Tile::kThreads / 32,
          .num_stages = Tile::kStages,
          .cluster = cluster,
          .threads = Tile::kThreads,
          .shared_bytes = Tile::kSharedBytes,
          .refuses = sm90_conv_refuses<Tile, cluster>,
          .workspace_bytes = implicit_gemm_workspace,
          .launch = sm90_conv_launch<Tile, cluster>};
}

template <class T, int block_m, int block_n, int stages, Schedule schedule>
using ConvTile = Sm90Tile<T, block_m, block_n, stages, schedule, false, false>;

// As for matmul; 64 columns are for layers of 64 output channels.
template <class T>
inline constexpr Conv2dInstance kSm90SixteenBitConv[] = {
    sm90_conv_instance<ConvTile<T, 128, 256, 4, Schedule::cooperative>, 2>(),
    sm90_conv_instance<ConvTile<T, 256, 128, 4, Schedule::cooperative>, 2>(),
    sm90_conv_instance<ConvTile<T, 128, 128, 6, Schedule::ping_pong>, 2>(),
    sm90_conv_instance<ConvTile<T, 128, 128, 6, Schedule::ping_pong>, 1>(),
    sm90_conv_instance<ConvTile<T, 128, 64, 8, Schedule::ping_pong>, 1>(),
};

}  // namespace tilewright::cuda::conv
