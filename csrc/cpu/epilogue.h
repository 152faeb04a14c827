// y = act(z + bias + residual) on a tile of fp32, then the one rounding. See kernels/epilogue.py.
//
// The most frequent cases are one pass. In general each step is a pass over the tile, which lies in L1: no
// step multiplies the number of kernels to compile.
#pragma once

#include "cpu/activation.h"
#include "cpu/simd.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

TW_INLINE int64_t size_of(Dtype dtype) {
  return dtype == Dtype::f32 ? 4 : 2;
}

TW_INLINE const void* advance(const void* p, int64_t elements, Dtype dtype) {
  return static_cast<const char*>(p) + elements * size_of(dtype);
}

TW_INLINE void* advance(void* p, int64_t elements, Dtype dtype) {
  return static_cast<char*>(p) + elements * size_of(dtype);
}

// The epilogue of the tile that begins `row` and `col` further on.
TW_INLINE Epilogue advance(const Epilogue& e, int64_t row, int64_t col) {
  Epilogue moved = e;
  if (e.bias != nullptr) {
    moved.bias = advance(e.bias, row * e.bias_row + col * e.bias_stride, e.bias_dtype);
  }
  if (e.residual != nullptr) {
    moved.residual = advance(e.residual, row * e.residual_row + col * e.residual_col, e.residual_dtype);
  }
  moved.out = advance(e.out, row * e.out_row + col, e.out_dtype);
  if (e.preact != nullptr) moved.preact = advance(e.preact, row * e.out_row + col, e.out_dtype);
  return moved;
}

template <class T>
TW_INLINE vf load_any(const T* p, int64_t stride, int64_t count) {
  const int used = count < kLanes ? static_cast<int>(count) : kLanes;
  if (stride == 0) return load_part(p, 1)[0] - vf{};
  return stride == 1 ? load_upto(p, used) : load_strided(p, stride, used);
}

// z[row][col] += source[row·row_stride + col·col_stride]
template <class T>
void add(float* z, int64_t ldz, int rows, int64_t cols, const T* source, int64_t row_stride,
         int64_t col_stride) {
  for (int64_t col = 0; col < cols; col += kLanes) {
    vf value = zero();
    if (row_stride == 0) value = load_any(source + col * col_stride, col_stride, cols - col);
    for (int row = 0; row < rows; ++row) {
      float* at = z + row * ldz + col;
      if (row_stride != 0) {
        value = load_any(source + row * row_stride + col * col_stride, col_stride, cols - col);
      }
      store(at, load(at) + value);
    }
  }
}

inline void add(float* z, int64_t ldz, int rows, int64_t cols, const void* source, Dtype dtype,
                int64_t row_stride, int64_t col_stride) {
  switch (dtype) {
    case Dtype::f32:
      return add(z, ldz, rows, cols, static_cast<const float*>(source), row_stride, col_stride);
    case Dtype::bf16:
      return add(z, ldz, rows, cols, static_cast<const bf16*>(source), row_stride, col_stride);
    case Dtype::f16:
      return add(z, ldz, rows, cols, static_cast<const f16*>(source), row_stride, col_stride);
  }
}

template <Activation kActivation>
void activate(float* z, int64_t ldz, int rows, int64_t cols) {
  for (int row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; col += kLanes) {
      float* at = z + row * ldz + col;
      const vf v = load(at);
      if constexpr (kActivation == Activation::relu) store(at, relu(v));
      if constexpr (kActivation == Activation::gelu) store(at, gelu(v));
      if constexpr (kActivation == Activation::gelu_tanh) store(at, gelu_tanh(v));
      if constexpr (kActivation == Activation::silu) store(at, silu(v));
    }
  }
}

template <class T>
void write(const float* z, int64_t ldz, int rows, int64_t cols, T* out, int64_t out_row) {
  for (int row = 0; row < rows; ++row) {
    const float* from = z + row * ldz;
    T* to = out + row * out_row;
    int64_t col = 0;
    for (; col + kLanes <= cols; col += kLanes) store(to + col, load(from + col));
    if (col < cols) store_part(to + col, load(from + col), static_cast<int>(cols - col));
  }
}

inline void write(const float* z, int64_t ldz, int rows, int64_t cols, void* out, Dtype dtype,
                  int64_t out_row) {
  switch (dtype) {
    case Dtype::f32:
      return write(z, ldz, rows, cols, static_cast<float*>(out), out_row);
    case Dtype::bf16:
      return write(z, ldz, rows, cols, static_cast<bf16*>(out), out_row);
    case Dtype::f16:
      return write(z, ldz, rows, cols, static_cast<f16*>(out), out_row);
  }
}

// Where a bias comes from in the common cases.
enum class Bias { none, per_column, per_row };

// Columns col … col + kVectors·kLanes of all rows, of which `used` of the only vector where kVectors is 1.
// Row by row: neighbouring stores belong to one cache line.
template <Activation kActivation, Bias kBias, bool kResidual, int kVectors, class T>
TW_INLINE void finish_block(const float* z, int64_t ldz, int rows, int64_t col, int used, const Epilogue& e) {
  const T* bias = static_cast<const T*>(e.bias);
  const T* residual = kResidual ? static_cast<const T*>(e.residual) + col : nullptr;
  T* out = static_cast<T*>(e.out) + col;
  const auto load_at = [&](const T* p) { return kVectors > 1 ? load(p) : load_upto(p, used); };
  [[maybe_unused]] vf shift[kVectors];
  if constexpr (kBias == Bias::per_column) {
    TW_UNROLL for (int j = 0; j < kVectors; ++j) shift[j] = load_at(bias + col + j * kLanes);
  }
  for (int row = 0; row < rows; ++row) {
    vf v[kVectors];
    TW_UNROLL for (int j = 0; j < kVectors; ++j) {
      v[j] = load(z + row * ldz + col + j * kLanes);
      if constexpr (kBias == Bias::per_column) v[j] += shift[j];
      if constexpr (kBias == Bias::per_row) v[j] += broadcast(load_part(bias + row * e.bias_row, 1)[0]);
      if constexpr (kResidual) v[j] += load_at(residual + row * e.residual_row + j * kLanes);
      if constexpr (kActivation == Activation::relu) v[j] = relu(v[j]);
    }
    T* to = out + row * e.out_row;
    if constexpr (kVectors == 1) {
      store_upto(to, v[0], used);
    } else {
      TW_UNROLL for (int j = 0; j < kVectors; j += 2) store_pair(to + j * kLanes, v[j], v[j + 1]);
    }
  }
}

// The common cases in one pass: everything is of one dtype, rows are contiguous, relu or no activation.
template <Activation kActivation, Bias kBias, bool kResidual, class T>
void finish_rows(const float* z, int64_t ldz, int rows, int64_t cols, const Epilogue& e) {
  int64_t col = 0;
  for (; col + 4 * kLanes <= cols; col += 4 * kLanes) {
    finish_block<kActivation, kBias, kResidual, 4, T>(z, ldz, rows, col, kLanes, e);
  }
  if (col + 2 * kLanes <= cols) {
    finish_block<kActivation, kBias, kResidual, 2, T>(z, ldz, rows, col, kLanes, e);
    col += 2 * kLanes;
  }
  for (; col < cols; col += kLanes) {
    const int used = static_cast<int>(cols - col < kLanes ? cols - col : kLanes);
    finish_block<kActivation, kBias, kResidual, 1, T>(z, ldz, rows, col, used, e);
  }
}

template <Activation kActivation, Bias kBias, class T>
TW_INLINE void finish_rows(const float* z, int64_t ldz, int rows, int64_t cols, const Epilogue& e) {
  if (e.residual != nullptr) return finish_rows<kActivation, kBias, true, T>(z, ldz, rows, cols, e);
  finish_rows<kActivation, kBias, false, T>(z, ldz, rows, cols, e);
}

template <Activation kActivation, class T>
TW_INLINE void finish_rows(const float* z, int64_t ldz, int rows, int64_t cols, const Epilogue& e) {
  if (e.bias == nullptr) return finish_rows<kActivation, Bias::none, T>(z, ldz, rows, cols, e);
  if (e.bias_stride == 1) return finish_rows<kActivation, Bias::per_column, T>(z, ldz, rows, cols, e);
  finish_rows<kActivation, Bias::per_row, T>(z, ldz, rows, cols, e);
}

template <class T>
TW_INLINE void finish_rows(const float* z, int64_t ldz, int rows, int64_t cols, const Epilogue& e) {
  if (e.activation == Activation::relu) return finish_rows<Activation::relu, T>(z, ldz, rows, cols, e);
  finish_rows<Activation::none, T>(z, ldz, rows, cols, e);
}

// Whether the tile was finished: everything is of one dtype and simple.
inline bool finish_in_one_pass(const float* z, int64_t ldz, int rows, int64_t cols, const Epilogue& e) {
  const bool simple = e.activation == Activation::none || e.activation == Activation::relu;
  if (!simple || e.preact != nullptr) return false;
  if (e.residual != nullptr && (e.residual_dtype != e.out_dtype || e.residual_col != 1)) return false;
  if (e.bias != nullptr) {
    const bool per_column = e.bias_stride == 1 && e.bias_row == 0;
    if (e.bias_dtype != e.out_dtype || !(per_column || e.bias_stride == 0)) return false;
  }
  switch (e.out_dtype) {
    case Dtype::f32:
      finish_rows<float>(z, ldz, rows, cols, e);
      return true;
    case Dtype::bf16:
#if defined(__AVX512F__)
      if (e.bf16_units) {
        finish_rows<bf16_by_unit>(z, ldz, rows, cols, e);
        return true;
      }
#endif
      finish_rows<bf16>(z, ldz, rows, cols, e);
      return true;
    case Dtype::f16:
      finish_rows<f16>(z, ldz, rows, cols, e);
      return true;
  }
  return false;
}

// Finishes the tile z, which is overwritten. Whole vectors of z are read and written: ldz is a multiple of
// kLanes and at least cols rounded up to it. Lanes beyond cols may hold anything.
inline void finish_tile(float* z, int64_t ldz, int rows, int64_t cols, const Epilogue& e) {
  if (finish_in_one_pass(z, ldz, rows, cols, e)) return;
  if (e.bias != nullptr) add(z, ldz, rows, cols, e.bias, e.bias_dtype, e.bias_row, e.bias_stride);
  if (e.residual != nullptr) {
    add(z, ldz, rows, cols, e.residual, e.residual_dtype, e.residual_row, e.residual_col);
  }
  if (e.preact != nullptr) write(z, ldz, rows, cols, e.preact, e.out_dtype, e.out_row);
  switch (e.activation) {
    case Activation::none:
      break;
    case Activation::relu:
      activate<Activation::relu>(z, ldz, rows, cols);
      break;
    case Activation::gelu:
      activate<Activation::gelu>(z, ldz, rows, cols);
      break;
    case Activation::gelu_tanh:
      activate<Activation::gelu_tanh>(z, ldz, rows, cols);
      break;
    case Activation::silu:
      activate<Activation::silu>(z, ldz, rows, cols);
      break;
  }
  write(z, ldz, rows, cols, e.out, e.out_dtype, e.out_row);
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
