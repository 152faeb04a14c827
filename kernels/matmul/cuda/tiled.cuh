// The tiled kernel of the sm_80 family: y = act(A·B + bias + residual), a block per tile of y. The walk is
// drawn in ../README.md.
#pragma once

#include "cuda/epilogue.cuh"
#include "cuda/launch.cuh"
#include "cuda/mainloop.cuh"
#include "cuda/tile_copy.cuh"
#include "matmul/cuda/matmul.h"
#include "matmul/cuda/split.h"

namespace tilewright::cuda {

// What a launch works out once. Strides of A and B are in bytes.
struct TiledParameters {
  const char *a, *b;
  int64_t a_strides[4], b_strides[4];
  int64_t m, n;
  int k;
  unsigned tiles_m, tiles_n, group_m, parts, batch1;
  int k_tiles, tiles_per_part;
  int64_t part_stride;  // elements of y between the parts of a sum
  Epilogue epilogue;    // with split K: stores the parts to the workspace
};

// Tiles vary fastest, then parts of K, then matrices. Tiles are numbered down group_m rows before they go
// right: blocks that run together share rows of A and columns of B in L2.
struct TilePlace {
  unsigned row, column, part, batch0, batch1;

  TILEWRIGHT_DEVICE TilePlace(unsigned block, const TiledParameters& p) {
    const unsigned tiles = p.tiles_m * p.tiles_n;
    const unsigned tile = block % tiles, rest = block / tiles;
    const unsigned matrix = rest / p.parts;
    part = rest % p.parts;
    batch0 = matrix / p.batch1;
    batch1 = matrix % p.batch1;
    const unsigned in_group = tile % (p.group_m * p.tiles_n);
    const unsigned first = tile / (p.group_m * p.tiles_n) * p.group_m;
    const unsigned height = p.tiles_m - first < p.group_m ? p.tiles_m - first : p.group_m;
    row = first + in_group % height;
    column = in_group / height;
  }
};

// How an operand's tiles are copied: `width` 0 stands for single elements of any strides.
template <class Shape, class Tile, Major major, CopyWidth width>
using CopyOf =
    std::conditional_t<width == CopyWidth::element && sizeof(typename Shape::Element) == 2,
                       ElementCopy<Tile, major, Shape::kThreads, Shape::kK>,
                       AsyncCopy<Tile, major, sizeof(typename Shape::Element), Shape::kThreads,
                                 width == CopyWidth::element ? 4 : static_cast<int>(width), Shape::kK>>;

template <class Shape>
inline constexpr int kTiledSharedBytes = []() {
  const int staging = Shape::kThreads / 32 * kStagingFloats<Shape::kColumns> * 4;
  return Shape::kSharedBytes > staging ? Shape::kSharedBytes : staging;
}();

template <class Shape, CopyWidth width>
TILEWRIGHT_KERNEL void __launch_bounds__(Shape::kThreads, 1) tiled_matmul(const TiledParameters p) {
  TILEWRIGHT_SHARED(shared);
  const TilePlace place(blockIdx.x, p);
  const int64_t row = static_cast<int64_t>(place.row) * Shape::kM;
  const int64_t column = static_cast<int64_t>(place.column) * Shape::kN;
  const int rows = p.m - row < Shape::kM ? static_cast<int>(p.m - row) : Shape::kM;
  const int columns = p.n - column < Shape::kN ? static_cast<int>(p.n - column) : Shape::kN;
  const int first_tile = static_cast<int>(place.part) * p.tiles_per_part;
  const int tiles = p.k_tiles - first_tile < p.tiles_per_part ? p.k_tiles - first_tile : p.tiles_per_part;
  const int64_t k = static_cast<int64_t>(first_tile) * Shape::kK;
  const int depth = p.k - static_cast<int>(k);

  typename Shape::Accumulators acc = {};
  {
    const char* a = p.a + place.batch0 * p.a_strides[0] + place.batch1 * p.a_strides[1] +
                    row * p.a_strides[2] + k * p.a_strides[3];
    const char* b = p.b + place.batch0 * p.b_strides[0] + place.batch1 * p.b_strides[1] + k * p.b_strides[2] +
                    column * p.b_strides[3];
    CopyOf<Shape, typename Shape::ATile, Shape::kAMajor, width> copy_a(
        Stretch{a, p.a_strides[2], p.a_strides[3], rows, depth});
    CopyOf<Shape, typename Shape::BTile, Shape::kBMajor, width> copy_b(
        Stretch{b, p.b_strides[3], p.b_strides[2], columns, depth});
    mainloop<Shape>(acc, copy_a, copy_b, shared, tiles);
  }
  ptx::sync_threads();  // the warps' staging takes the place of the tiles

  Epilogue e = at_matrix(p.epilogue, place.batch0, place.batch1, column);
  e.y = advance(e.y, place.part * p.part_stride, e.y_type);
  float* staging = reinterpret_cast<float*>(shared) + threadIdx.x / 32 * kStagingFloats<Shape::kColumns>;
  store_warp_tile(acc, staging, e, EvenRows{row, e.y_strides[2], e.residual_strides[2]}, Shape::warp_row(),
                  Shape::warp_column(), rows, columns);
}

template <class Shape, CopyWidth width>
void launch_tiled(const MatmulArguments& arguments, Stream stream) {
  if (is_empty(arguments)) return;
  constexpr int kElement = sizeof(typename Shape::Element);
  TiledParameters p{};
  p.a = static_cast<const char*>(arguments.a);
  p.b = static_cast<const char*>(arguments.b);
  for (int i = 0; i < 4; ++i) {
    p.a_strides[i] = arguments.a_strides[i] * kElement;
    p.b_strides[i] = arguments.b_strides[i] * kElement;
  }
  p.m = arguments.m;
  p.n = arguments.n;
  p.k = static_cast<int>(arguments.k);
  const Split split = split_of(arguments, Shape::kK);
  p.k_tiles = static_cast<int>(split.k_tiles);
  p.tiles_per_part = static_cast<int>(split.tiles_per_part);
  p.parts = static_cast<unsigned>(split.parts);
  p.batch1 = static_cast<unsigned>(arguments.batch[1]);
  const int64_t tiles_m = ceil_div(arguments.m, Shape::kM), tiles_n = ceil_div(arguments.n, Shape::kN);
  p.tiles_m = static_cast<unsigned>(tiles_m);
  p.tiles_n = static_cast<unsigned>(tiles_n);
  p.group_m = static_cast<unsigned>(std::clamp<int64_t>(arguments.group_m, 1, tiles_m));
  p.epilogue = split.parts > 1 ? part_epilogue(arguments, split) : whole_epilogue(arguments);
  p.part_stride = arguments.m * arguments.n;
  LaunchShape shape;
  shape.grid = dim3(grid_size({tiles_m, tiles_n, split.parts, arguments.batch[0], arguments.batch[1]}));
  shape.threads = Shape::kThreads;
  shape.shared_bytes = kTiledSharedBytes<Shape>;
  launch(tiled_matmul<Shape, width>, shape, stream, p);
  if (split.parts > 1) launch_reduce(arguments, split.parts, stream);
}

template <class Shape, CopyWidth width>
const char* tiled_refuses(const MatmulArguments& arguments) {
  constexpr int kElement = sizeof(typename Shape::Element);
  if (const char* why = refuses_sizes(arguments)) return why;
  return refuses_copies(arguments, kElement, width, Shape::kAMajor == Major::k, Shape::kBMajor == Major::k);
}

template <class Shape>
size_t tiled_workspace(const MatmulArguments& arguments) {
  return workspace_bytes(arguments, split_of(arguments, Shape::kK).parts);
}

template <class Shape, CopyWidth width>
constexpr MatmulInstance tiled_instance(DataType dtype) {
  MatmulInstance i{};
  i.algorithm = "tiled";
  i.capability = 80;
  i.dtype = dtype;
  i.tf32 = dtype == DataType::f32;
  i.a_layout = Shape::kAMajor == Major::k ? MatrixLayout::row : MatrixLayout::column;
  i.b_layout = Shape::kBMajor == Major::k ? MatrixLayout::column : MatrixLayout::row;
  i.copy = width;
  i.block_m = Shape::kM;
  i.block_n = Shape::kN;
  i.block_k = Shape::kK;
  i.num_warps = Shape::kThreads / 32;
  i.num_stages = Shape::kStages;
  i.cluster = 1;
  i.threads = Shape::kThreads;
  i.shared_bytes = kTiledSharedBytes<Shape>;
  i.refuses = tiled_refuses<Shape, width>;
  i.workspace = tiled_workspace<Shape>;
  i.launch = launch_tiled<Shape, width>;
  return i;
}

}  // namespace tilewright::cuda
