// How a register tile finishes itself: y = act(sums + bias + residual), rounded once, straight from the
// registers.
//
// For the common epilogues alone (see finishes_in_registers); others, and tiles at a ragged edge, store their
// sums for finish_tile in epilogue.h. On a short K the way through memory took as long as the products.
#pragma once

#include "cpu/simd.h"
#include "cpu/types.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// Where a tile goes. Its rows come in one or two runs: of a matrix in one, of pixels in two. Distances in
// elements.
struct TileStore {
  void* y[2];               // the first element of each run
  int64_t y_row;            // from a row of a run to the next
  const void* bias;         // of the tile's columns, or null
  const void* residual[2];  // as y, or null
  int64_t residual_row;
  float floor;  // 0 for relu, minus infinity for no activation
};

template <class T>
inline constexpr Dtype kDtypeOf = Dtype::f32;
template <>
inline constexpr Dtype kDtypeOf<bf16> = Dtype::bf16;
template <>
inline constexpr Dtype kDtypeOf<f16> = Dtype::f16;
#if defined(__AVX512F__)
template <>
inline constexpr Dtype kDtypeOf<bf16_by_unit> = Dtype::bf16;
#endif

// Whether tiles that write T do it from the registers. Rounding by hand takes constants, for which those have
// no room.
template <class T>
inline constexpr bool kRoundsByUnit = true;
template <>
inline constexpr bool kRoundsByUnit<bf16> = false;
#if !defined(__AVX2__)
template <>
inline constexpr bool kRoundsByUnit<f16> = false;
#endif

// Whether tiles that write T can take this epilogue: everything is of that dtype, and nothing but relu.
template <class T>
TW_INLINE bool finishes_in_registers(const Epilogue& e) {
  const Dtype dtype = kDtypeOf<T>;
  const bool plain = e.activation == Activation::none || e.activation == Activation::relu;
  const bool bias = e.bias == nullptr || (e.bias_dtype == dtype && e.bias_stride == 1 && e.bias_row == 0);
  const bool residual = e.residual == nullptr || (e.residual_dtype == dtype && e.residual_col == 1);
  return kRoundsByUnit<T> && plain && bias && residual && e.preact == nullptr && e.out_dtype == dtype;
}

// Sets run `run` of the store to where `e` points.
TW_INLINE void place_run(TileStore& store, int run, const Epilogue& e) {
  store.y[run] = e.out;
  store.y_row = e.out_row;
  store.bias = e.bias;
  store.residual[run] = e.residual;
  store.residual_row = e.residual_row;
  store.floor = e.activation == Activation::relu ? 0.0f : -__builtin_inff();
}

template <class T, int kRun, int kRows, int kVectors, bool kResidual>
TW_INLINE void store_sums(const vf (&sums)[kRows][kVectors], const TileStore& store) {
  const vf floor = broadcast(store.floor);
  vf bias[kVectors];
  TW_UNROLL for (int j = 0; j < kVectors; ++j) {
    bias[j] = store.bias == nullptr ? zero() : load(static_cast<const T*>(store.bias) + j * kLanes);
  }
  TW_UNROLL for (int i = 0; i < kRows; ++i) {
    T* y = static_cast<T*>(store.y[i / kRun]) + i % kRun * store.y_row;
    vf v[kVectors];
    TW_UNROLL for (int j = 0; j < kVectors; ++j) {
      v[j] = sums[i][j] + bias[j];
      if constexpr (kResidual) {
        const T* residual = static_cast<const T*>(store.residual[i / kRun]) + i % kRun * store.residual_row;
        v[j] += load(residual + j * kLanes);
      }
      v[j] = select(v[j] < floor, floor, v[j]);  // NaN is not less than the floor, and stays
    }
    if constexpr (kVectors == 1) {
      tilewright::TILEWRIGHT_ISA_NAMESPACE::store(y, v[0]);
    } else {
      TW_UNROLL for (int j = 0; j < kVectors; j += 2) store_pair(y + j * kLanes, v[j], v[j + 1]);
    }
  }
}

// The epilogue of a tile. Where there is no bias, zero is added: a sum of -0 becomes 0.
template <class T, int kRun, int kRows, int kVectors>
TW_INLINE void store_sums(const vf (&sums)[kRows][kVectors], const TileStore& store) {
  if (store.residual[0] != nullptr) {
    store_sums<T, kRun, kRows, kVectors, true>(sums, store);
  } else {
    store_sums<T, kRun, kRows, kVectors, false>(sums, store);
  }
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
