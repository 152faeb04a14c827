// Finishes split K: adds the parts of every sum in ascending order, then the epilogue. A thread has eight
// columns of one row; neither the number of blocks nor their order changes a bit.
#include "cuda/epilogue.cuh"
#include "cuda/launch.cuh"
#include "matmul/cuda/matmul.h"
#include "matmul/cuda/split.h"

namespace tilewright::cuda {

namespace {

constexpr int kReduceThreads = 256;

struct ReduceParameters {
  const float* parts;  // (batch 0, batch 1, count, m, n)
  int count;
  bool vectors;
  unsigned m, n, units, batch1, blocks_per_matrix;
  int64_t part_stride;
  Epilogue epilogue;
};

TILEWRIGHT_KERNEL void __launch_bounds__(kReduceThreads) reduce_parts(const ReduceParameters p) {
  const unsigned matrix = blockIdx.x / p.blocks_per_matrix;
  const unsigned at = blockIdx.x % p.blocks_per_matrix * kReduceThreads + threadIdx.x;
  const unsigned row = at / p.units, column = at % p.units * 8;
  if (row >= p.m) return;
  const int count = p.n - column < 8 ? static_cast<int>(p.n - column) : 8;
  const Epilogue e = at_matrix(p.epilogue, matrix / p.batch1, matrix % p.batch1, column);
  const EvenRows rows{0, e.y_strides[2], e.residual_strides[2]};
  // What does not depend on the sums is under way while they are read.
  Eight bias, residual;
  if (e.bias != nullptr) bias = load_eight(e.bias, e.bias_type, e.bias_vectors, e.bias_strides[2], count);
  if (e.residual != nullptr) {
    residual = load_eight(advance(e.residual, rows.residual(static_cast<int>(row)), e.residual_type),
                          e.residual_type, e.residual_vectors, e.residual_strides[3], count);
  }
  const float* from = p.parts + (static_cast<int64_t>(matrix) * p.count) * p.part_stride +
                      static_cast<int64_t>(row) * p.n + column;
  float v[8] = {};
#pragma unroll 4
  for (int part = 0; part < p.count; ++part) {
    add_eight(v, load_eight(from, DataType::f32, p.vectors, 1, count), DataType::f32);
    from += p.part_stride;
  }
  if (e.bias != nullptr) add_eight(v, bias, e.bias_type);
  finish_eight(e, v, residual, rows.y(static_cast<int>(row)), count);
}

}  // namespace

void launch_reduce(const MatmulArguments& arguments, int64_t parts, Stream stream) {
  ReduceParameters p{};
  const int64_t units = ceil_div(arguments.n, 8);
  const int64_t blocks = ceil_div(arguments.m * units, kReduceThreads);
  p.parts = static_cast<const float*>(arguments.workspace);
  p.count = static_cast<int>(parts);
  p.part_stride = arguments.m * arguments.n;
  p.vectors = arguments.n % 4 == 0;
  p.m = static_cast<unsigned>(arguments.m);
  p.n = static_cast<unsigned>(arguments.n);
  p.units = static_cast<unsigned>(units);
  p.batch1 = static_cast<unsigned>(arguments.batch[1]);
  p.blocks_per_matrix = static_cast<unsigned>(blocks);
  p.epilogue = whole_epilogue(arguments);
  LaunchShape shape;
  shape.grid = dim3(grid_size({blocks, arguments.batch[0], arguments.batch[1]}));
  shape.threads = kReduceThreads;
  // A thread's unit is numbered in 32 bits.
  if (blocks * kReduceThreads > 0xffffffffll) throw Error("matmul: y is too large for split_k > 1");
  launch(reduce_parts, shape, stream, p);
}

}  // namespace tilewright::cuda
