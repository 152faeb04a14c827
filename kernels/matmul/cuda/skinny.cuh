// The skinny kernel: at most 16 rows of A against all of B, which is streamed once, at the memory's pace.
// Drawn in
// ../README.md.
#pragma once

#include "cuda/epilogue.cuh"
#include "cuda/launch.cuh"
#include "matmul/cuda/matmul.h"
#include "matmul/cuda/skinny_readers.cuh"
#include "matmul/cuda/split.h"

namespace tilewright::cuda {

struct SkinnyParameters {
  const char *a, *b;
  int64_t a_strides[4], b_strides[4];  // bytes
  int m, k;
  int64_t n;
  unsigned tiles_n, parts, batch1;
  int part_depth;  // of k
  int64_t part_stride;
  Epilogue epilogue;  // with split K: stores the parts to the workspace
};

// A block has kN columns for each of its `warps_n` warps side by side; `warps_k` warps share out k, a chunk
// each in turn, and their sums are added in the order of the warps.
template <class Reader, int warps_n, int warps_k>
struct SkinnyShape {
  using Warp = Reader;
  static constexpr int kWarpsN = warps_n, kWarpsK = warps_k, kThreads = warps_n * warps_k * 32;
  static constexpr int kM = Reader::kM, kN = Reader::kN * warps_n, kK = Reader::kDepth * warps_k;
  // The sums of all warps: (warps_k, kM, kN), rows apart so that they begin in different banks.
  static constexpr int kStride = kN + 4, kPartFloats = kM * kStride;
  static constexpr int kSharedBytes = warps_k * kPartFloats * 4;
  static constexpr int kUnits = kN / 8;  // of eight columns
};

template <class Shape>
TILEWRIGHT_KERNEL void __launch_bounds__(Shape::kThreads) skinny_matmul(const SkinnyParameters p) {
  using Reader = typename Shape::Warp;
  TILEWRIGHT_SHARED(shared);
  float* const sums = reinterpret_cast<float*>(shared);
  const unsigned tile = blockIdx.x % p.tiles_n, rest = blockIdx.x / p.tiles_n;
  const unsigned part = rest % p.parts, matrix = rest / p.parts;
  const unsigned batch0 = matrix / p.batch1, batch1 = matrix % p.batch1;
  const int warp = threadIdx.x / 32, warp_n = warp % Shape::kWarpsN, warp_k = warp / Shape::kWarpsN;
  const int64_t column = static_cast<int64_t>(tile) * Shape::kN;
  const int columns = p.n - column < Shape::kN ? static_cast<int>(p.n - column) : Shape::kN;
  {
    const int first = static_cast<int>(part) * p.part_depth;
    const int end = p.k - first < p.part_depth ? p.k : first + p.part_depth;
    SkinnyOperands operands;
    operands.a = p.a + batch0 * p.a_strides[0] + batch1 * p.a_strides[1];
    operands.b = p.b + batch0 * p.b_strides[0] + batch1 * p.b_strides[1] + column * p.b_strides[3];
    operands.a_row = p.a_strides[2];
    operands.b_stride = Reader::kColumn ? p.b_strides[3] : p.b_strides[2];
    operands.m = p.m;
    operands.columns = columns;
    operands.column = warp_n * Reader::kN;
    operands.k = first + warp_k * Reader::kDepth;
    operands.step = Shape::kK;
    operands.end = end;
    Reader reader(operands);
    // One chunk ahead.
    typename Reader::Chunk now = reader.load();
#pragma unroll 2
    for (int k = operands.k; k < end; k += Shape::kK) {
      const typename Reader::Chunk next = reader.load();
      reader.multiply(now);
      now = next;
    }
    reader.store(sums + warp_k * Shape::kPartFloats + operands.column, Shape::kStride);
  }
  ptx::sync_threads();

  Epilogue e = at_matrix(p.epilogue, batch0, batch1, column);
  e.y = advance(e.y, part * p.part_stride, e.y_type);
  for (int at = threadIdx.x; at < p.m * Shape::kUnits; at += Shape::kThreads) {
    const int row = at / Shape::kUnits, unit = at % Shape::kUnits * 8;
    const int count = columns - unit;
    if (count <= 0) continue;
    Eight residual;
    if (e.residual != nullptr) {
      residual = load_eight(
          advance(e.residual, row * e.residual_strides[2] + unit * e.residual_strides[3], e.residual_type),
          e.residual_type, e.residual_vectors, e.residual_strides[3], count);
    }
    const float* from = sums + row * Shape::kStride + unit;
    float v[8] = {};
#pragma unroll 1
    for (int i = 0; i < Shape::kWarpsK; ++i) {
#pragma unroll
      for (int q = 0; q < 8; ++q) v[q] += from[q];
      from += Shape::kPartFloats;
    }
    if (e.bias != nullptr) {
      add_eight(v,
                load_eight(advance(e.bias, unit * e.bias_strides[2], e.bias_type), e.bias_type,
                           e.bias_vectors, e.bias_strides[2], count),
                e.bias_type);
    }
    finish_eight(e, v, residual, row * e.y_strides[2] + unit * e.y_strides[3], count);
  }
}

template <class Shape>
void launch_skinny(const MatmulArguments& arguments, Stream stream) {
  if (is_empty(arguments)) return;
  SkinnyParameters p{};
  p.a = static_cast<const char*>(arguments.a);
  p.b = static_cast<const char*>(arguments.b);
  for (int i = 0; i < 4; ++i) {
    p.a_strides[i] = arguments.a_strides[i] * Shape::Warp::kElement;
    p.b_strides[i] = arguments.b_strides[i] * Shape::Warp::kElement;
  }
  p.m = static_cast<int>(arguments.m);
  p.n = arguments.n;
  p.k = static_cast<int>(arguments.k);
  const Split split = split_of(arguments, Shape::kK);
  const int64_t tiles_n = ceil_div(arguments.n, Shape::kN);
  p.tiles_n = static_cast<unsigned>(tiles_n);
  p.parts = static_cast<unsigned>(split.parts);
  p.part_depth = static_cast<int>(split.tiles_per_part * Shape::kK);
  p.batch1 = static_cast<unsigned>(arguments.batch[1]);
  p.epilogue = split.parts > 1 ? part_epilogue(arguments, split) : whole_epilogue(arguments);
  p.part_stride = arguments.m * arguments.n;
  LaunchShape shape;
  shape.grid = dim3(grid_size({tiles_n, split.parts, arguments.batch[0], arguments.batch[1]}));
  shape.threads = Shape::kThreads;
  shape.shared_bytes = Shape::kSharedBytes;
  launch(skinny_matmul<Shape>, shape, stream, p);
  if (split.parts > 1) launch_reduce(arguments, split.parts, stream);
}

template <class Shape>
const char* skinny_refuses(const MatmulArguments& arguments) {
  if (const char* why = refuses_sizes(arguments)) return why;
  if (arguments.m > Shape::kM) return "m is above the rows that the skinny kernel was compiled for";
  return refuses_copies(arguments, Shape::Warp::kElement, CopyWidth::bytes16, true, Shape::Warp::kColumn);
}

template <class Shape>
size_t skinny_workspace(const MatmulArguments& arguments) {
  return workspace_bytes(arguments, split_of(arguments, Shape::kK).parts);
}

template <class Shape>
constexpr MatmulInstance skinny_instance(DataType dtype) {
  MatmulInstance i{};
  i.algorithm = "skinny";
  i.capability = 80;
  i.dtype = dtype;
  i.a_layout = MatrixLayout::row;
  i.b_layout = Shape::Warp::kColumn ? MatrixLayout::column : MatrixLayout::row;
  i.copy = CopyWidth::bytes16;
  i.block_m = Shape::kM;
  i.block_n = Shape::kN;
  i.block_k = Shape::kK;
  i.num_warps = Shape::kThreads / 32;
  i.num_stages = 2;
  i.cluster = 1;
  i.threads = Shape::kThreads;
  i.shared_bytes = Shape::kSharedBytes;
  i.refuses = skinny_refuses<Shape>;
  i.workspace = skinny_workspace<Shape>;
  i.launch = launch_skinny<Shape>;
  return i;
}

}  // namespace tilewright::cuda
