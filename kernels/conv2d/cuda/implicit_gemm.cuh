// Convolution as a product of matrices of which one is never written down:
//
//     rows of A    pixels (n, p, q) of y, counted through the batch
//     columns of B output channels of one group
//     k            (r, s, c): taps and, within each, the channels of the group, numbered through
//
//     A[(n, p, q), (r, s, c)] = x[n, c, p·stride_h - top + r·dilation_h, q·stride_w - left + s·dilation_w],
//     or 0 B[(r, s, c), k]         = w[k, c, r, s]
//
// A is gathered while it is copied to shared memory (gather.cuh), B is a matrix whose rows, output channels,
// have k contiguous (stage.cuh sees to that); everything else is a product of matrices (cuda/mainloop.cuh). k
// is numbered through and not cut at the end of a tap, so that the last tile of k alone may be partly empty.
#pragma once

#include "conv2d/cuda/gather.cuh"
#include "conv2d/cuda/output.cuh"
#include "conv2d/cuda/store_planes.cuh"
#include "cuda/tile_copy.cuh"

namespace tilewright::cuda::conv {

struct ImplicitGemm {
  GatherImage image;
  const void* x;
  const void* weight;
  int64_t x_group, weight_pitch;  // elements: from group to group, from row to row
  int channels;                   // of y, per group
  int depth;                      // terms of the weight's rows, with padding
  uint32_t tiles_m, tiles_n, group_m;
  int part_tiles;  // tiles of k that a part of the sum has
  bool planes, runs;
  float* parts;  // null, or where sums go: parts × pixels × channels of all groups
  int64_t all_channels;
  ConvOutput output;
};

// The tile that a block computes: `group_m` rows of tiles are walked column by column, so that the blocks
// under way share what they read.
struct TilePlace {
  uint32_t m, n, group;
};

TILEWRIGHT_DEVICE TilePlace place_of(const ImplicitGemm& g) {
  const uint32_t tiles = g.tiles_m * g.tiles_n, group = blockIdx.x / tiles, tile = blockIdx.x - group * tiles;
  const uint32_t band = g.group_m * g.tiles_n, first = tile / band * g.group_m, within = tile % band;
  const uint32_t height = g.tiles_m - first < g.group_m ? g.tiles_m - first : g.group_m;
  return {first + within % height, within / height, group};
}

// Offsets of a tile's rows in y and residual, or in this part of the sum; the caller synchronises.
template <int block_m, int threads>
TILEWRIGHT_DEVICE void find_out_rows(const ImplicitGemm& g, OutRow* rows, uint32_t first) {
  for (int i = static_cast<int>(threadIdx.x); i < block_m; i += threads) {
    const uint32_t row = first + i;
    if (row >= g.image.rows) break;
    OutRow found{(static_cast<int64_t>(blockIdx.y) * g.image.rows + row) * g.all_channels, 0};
    if (g.parts == nullptr) {
      const uint32_t n = g.image.by_pixels.divide(row), pixel = g.image.by_pixels.remainder(row, n);
      const uint32_t p = g.image.by_out_width.divide(pixel);
      const int q = static_cast<int>(g.image.by_out_width.remainder(pixel, p));
      found = {g.output.y(n, static_cast<int>(p), q), g.output.residual(n, static_cast<int>(p), q)};
    }
    rows[i] = found;
  }
}

template <class Shape>
inline constexpr int kTileBytes =
    Shape::kSharedBytes > Shape::kThreads / 32 * kStagingFloats<Shape::kColumns> * 4
        ? Shape::kSharedBytes
        : Shape::kThreads / 32 * kStagingFloats<Shape::kColumns> * 4;

// Tiles, then a record for each row: where to read, and once all is read, where to write.
template <class Shape>
inline constexpr int kImplicitGemmShared = kTileBytes<Shape> + Shape::kM * static_cast<int>(sizeof(uint4));

template <class Shape, class Gather>
TILEWRIGHT_KERNEL void __launch_bounds__(Shape::kThreads)
    implicit_gemm(const __grid_constant__ ImplicitGemm g) {
  using Element = typename Shape::Element;
  constexpr int kElement = static_cast<int>(sizeof(Element));
  TILEWRIGHT_SHARED(shared);
  uint4* const rows = reinterpret_cast<uint4*>(shared + kTileBytes<Shape>);
  const TilePlace place = place_of(g);
  const uint32_t first_row = place.m * Shape::kM;
  const int first_channel = static_cast<int>(place.n) * Shape::kN;
  find_rows<Shape::kM, Shape::kThreads>(g.image, rows, first_row);
  ptx::sync_threads();

  const int all_tiles = (g.depth + Shape::kK - 1) / Shape::kK,
            first_tile = static_cast<int>(blockIdx.y) * g.part_tiles;
  const int left = all_tiles - first_tile, tiles = left < g.part_tiles ? (left > 0 ? left : 0) : g.part_tiles;
  const int first_k = first_tile * Shape::kK, group_channel = static_cast<int>(place.group) * g.channels;
  Gather a(g.image, static_cast<const Element*>(g.x) + place.group * g.x_group, rows, first_k);
  const int64_t pitch = g.weight_pitch * kElement;
  AsyncCopy<typename Shape::BTile, Major::k, kElement, Shape::kThreads, 16, Shape::kK> b(
      Stretch{static_cast<const char*>(g.weight) + (group_channel + first_channel) * pitch +
                  int64_t{first_k} * kElement,
              pitch, kElement, g.channels - first_channel, g.depth - first_k});
  typename Shape::Accumulators sums = {};
  mainloop<Shape>(sums, a, b, shared, tiles);
  ptx::sync_threads();

  OutRow* const out_rows = reinterpret_cast<OutRow*>(rows);
  find_out_rows<Shape::kM, Shape::kThreads>(g, out_rows, first_row);
  ptx::sync_threads();
  const Epilogue e = at_matrix(g.output.epilogue, 0, 0, group_channel + first_channel);
  float* const staging =
      reinterpret_cast<float*>(shared) + static_cast<int>(threadIdx.x) / 32 * kStagingFloats<Shape::kColumns>;
  const uint32_t rows_left = g.image.rows - first_row;
  const int row_count = rows_left < Shape::kM ? static_cast<int>(rows_left) : Shape::kM;
  const int column_count = g.channels - first_channel;
  if (g.planes) {
    store_warp_planes(sums, staging, e, out_rows, g.runs, g.output.residual_w, Shape::warp_row(),
                      Shape::warp_column(), row_count, column_count);
  } else {
    store_warp_tile(sums, staging, e, OutRows{out_rows}, Shape::warp_row(), Shape::warp_column(), row_count,
                    column_count);
  }
}

}  // namespace tilewright::cuda::conv
