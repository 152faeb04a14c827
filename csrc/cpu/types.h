// Plain types that cross the border between baseline code and the per-ISA objects. Declarations only: a
// function here would be compiled once per instruction set and the linker would keep an arbitrary copy.
#pragma once

#include <cstdint>

namespace tilewright {

enum class Dtype : int { f32, bf16, f16 };

struct bf16 {
  uint16_t bits;
};

struct f16 {
  uint16_t bits;
};

// What does the multiplying: fp32 multiply-adds, or the processor's bf16 dot products.
enum class Compute : int { f32, bf16 };

// The numbers are those of kernels/epilogue.py.
enum class Activation : int { none, relu, gelu, gelu_tanh, silu };

// What happens to a tile z of A·B before it becomes y. Pointers are those of the tile's first element.
struct Epilogue {
  Activation activation;
  const void* bias;     // null: no bias
  int64_t bias_stride;  // from column to column; 0 where there is one element per row
  int64_t bias_row;     // from row to row; 0 where there is one element per column
  Dtype bias_dtype;
  const void* residual;  // null: no residual
  int64_t residual_row, residual_col;
  Dtype residual_dtype;
  void* out;     // rows out_row apart, columns contiguous
  void* preact;  // null, or where z + bias + residual goes, laid out like out
  int64_t out_row;
  Dtype out_dtype;
  bool bf16_units;  // the processor multiplies in bf16 (Compute::bf16), so that it can round to it as well
};

}  // namespace tilewright
