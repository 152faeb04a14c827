// What the CPU matmul kernels are given: y = act(A·B + bias + residual), geometry and tiles as plain numbers.
// Declarations only (see csrc/cpu/types.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/types.h"

namespace tilewright {

constexpr int kMaxBatchRank = 64;  // torch's limit on dimensions

// Who lays B out in panels, and when: each thread its own block, all threads together at the start of a call,
// or whoever froze the weight, beforehand.
enum class PackB : int { private_, shared, frozen };

struct MatmulGeometry {
  int64_t m, n, k;
  int batch_rank;
  int64_t batch_count;
  int64_t batch[kMaxBatchRank];
  // Strides in elements, per batch dimension and per matrix dimension.
  int64_t a_batch[kMaxBatchRank], b_batch[kMaxBatchRank], residual_batch[kMaxBatchRank];
  int64_t a_m, a_k, b_k, b_n;
  Dtype dtype;
  // The epilogue of a whole matrix; its pointers are filled in at each run.
  Epilogue epilogue;
  bool has_bias, has_residual, keep_preact;
  // The config; see CpuConfig in config.py.
  int64_t block_m, block_n, block_k;
  int tile_m, tile_n;
  PackB pack_b;
  int64_t parts_m, parts_n;
  int64_t prefetch;  // bytes
  int threads;
};

struct MatmulPointers {
  const void* a;
  const void* b;  // frozen: the packed form
  void* c;
  void* preact;
  const void* bias;
  const void* residual;
};

// One compiled algorithm. `workspace` says how many bytes of scratch `run` needs.
struct MatmulKernel {
  const char* algorithm;
  Compute compute;
  int tile_m, tile_n;  // 0: the algorithm has no such tile
  void (*run)(const MatmulGeometry&, const MatmulPointers&, void* workspace);
  size_t (*workspace)(const MatmulGeometry&);
  // For frozen weights: the bytes of B's packed form, and what writes it. Null: takes none.
  size_t (*packed_bytes)(const MatmulGeometry&);
  void (*pack)(const MatmulGeometry&, const void* b, void* packed);
};

// gemv streams the larger of A and B past a few rows of the other. It takes at most this many.
constexpr int64_t kGemvRows = 16;

}  // namespace tilewright
