// Plain types of the CUDA kernels' arguments and instance tables. Needs no CUDA header, so that the bindings
// and the tables' readers compile without a toolkit.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace tilewright::cuda {

using Stream = CUstream_st*;  // cudaStream_t; null on the host

enum class DataType : int { f32, bf16, f16 };

constexpr int size_of(DataType type) {
  return type == DataType::f32 ? 4 : 2;
}

// Operands that lie in memory as float and are multiplied with tf32's 10 bits of mantissa.
struct Tf32 {
  float value;
};

// The numbers are those of kernels/epilogue.py.
enum class Activation : int { none, relu, gelu, gelu_tanh, silu };

}  // namespace tilewright::cuda
