// What the CUDA matmul kernels are given: pointers, geometry and strides as plain numbers, and the table of
// what was compiled. Needs no CUDA header. See ../problem.py for the equation and ../README.md for the
// algorithms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cuda/epilogue.h"
#include "cuda/types.h"

namespace tilewright::cuda {

// y = act(A·B + bias + residual) over batch[0] x batch[1] matrices; A is (m, k), B is (k, n). Sizes may be 0.
struct MatmulArguments {
  const void* a = nullptr;
  const void* b = nullptr;
  int64_t m = 0, n = 0, k = 0;
  int64_t batch[2] = {1, 1};
  // Strides in elements, any whatever; 0 where an operand is broadcast.
  int64_t a_strides[4] = {};  // batch 0, batch 1, m, k
  int64_t b_strides[4] = {};  // batch 0, batch 1, k, n
  Epilogue epilogue;
  int alignment = 16;  // bytes, 16 at most, that divide every pointer; known before the pointers are

  // The config, beside what the instance fixes.
  int group_m = 8;            // rows of tiles that are walked together, for the sake of L2
  int split_k = 1;            // parts that each sum is cut into
  void* workspace = nullptr;  // 16-byte aligned, of at least MatmulInstance::workspace bytes
};

// Which dimension of an operand neighbours in memory.
enum class MatrixLayout : int { row, column };

// How an instance fetches the operands: vectors of this many bytes, or single elements. Elements may have any
// strides; for vectors the neighbouring dimension has stride 1 and its size, the other strides and the
// pointers are multiples of the vector.
enum class CopyWidth : int { element = 0, bytes4 = 4, bytes8 = 8, bytes16 = 16 };

struct MatmulInstance {
  const char* algorithm;    // tiled, skinny, ...
  int capability;           // the least compute capability, as 80
  bool exact_architecture;  // runs on that capability alone (sm_90a)
  DataType dtype;           // of A and B
  bool tf32;                // f32 operands are multiplied as tf32; otherwise f32 is multiplied in fp32
  MatrixLayout a_layout, b_layout;  // row: A has k, B has n contiguous
  CopyWidth copy;
  int block_m, block_n, block_k;
  int num_warps, num_stages, cluster;
  int threads;
  size_t shared_bytes;
  // Why the instance cannot compute this, null if it can. Reads no pointer, only `alignment`.
  const char* (*refuses)(const MatmulArguments&);
  // Bytes of scratch that a launch needs. Reads no pointer.
  size_t (*workspace)(const MatmulArguments&);
  // Throws Error where the device refuses; nothing is waited for.
  void (*launch)(const MatmulArguments&, Stream);
};

// Every instance of this build.
std::span<const MatmulInstance> matmul_instances();

}  // namespace tilewright::cuda
