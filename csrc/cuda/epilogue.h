// What happens to sums before they are stored: y = act(z) with z = acc + bias + residual. See
// kernels/epilogue.py. Everything here is known at run time only and the same for a whole launch, so that it
// multiplies no instances. Needs no CUDA header.
#pragma once

#include <cstdint>

#include "cuda/types.h"

namespace tilewright::cuda {

// Strides are in elements; 0 where an operand is broadcast.
struct Epilogue {
  Activation activation = Activation::none;
  DataType y_type = DataType::f32;  // of y and of the pre-activation
  DataType bias_type = DataType::f32;
  DataType residual_type = DataType::f32;
  const void* bias = nullptr;      // null: none
  const void* residual = nullptr;  // null: none
  void* y = nullptr;
  void* preact = nullptr;            // null, or where z goes, laid out like y
  int64_t bias_strides[3] = {};      // batch 0, batch 1, column
  int64_t residual_strides[4] = {};  // batch 0, batch 1, row, column
  int64_t y_strides[4] = {};
  // Eight neighbouring columns may be moved as 16-byte vectors; see `find_vectors`.
  bool y_vectors = false, bias_vectors = false, residual_vectors = false;
};

// Whether every eighth column of an operand begins a 16-byte vector: columns are neighbours and the pointer
// and all other strides are multiples of 16 bytes.
inline bool is_vector(const void* pointer, DataType type, int64_t column_stride, const int64_t* strides,
                      int count) {
  if (column_stride != 1 || reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  for (int i = 0; i < count; ++i) {
    if (strides[i] * size_of(type) % 16 != 0) return false;
  }
  return true;
}

// Sets the three flags, once the pointers are known. Strides of dimensions of size 1 should be 0.
inline void find_vectors(Epilogue& e) {
  e.y_vectors = is_vector(e.y, e.y_type, e.y_strides[3], e.y_strides, 3) &&
                reinterpret_cast<uintptr_t>(e.preact) % 16 == 0;
  e.bias_vectors = is_vector(e.bias, e.bias_type, e.bias_strides[2], e.bias_strides, 2);
  e.residual_vectors = is_vector(e.residual, e.residual_type, e.residual_strides[3], e.residual_strides, 3);
}

}  // namespace tilewright::cuda
