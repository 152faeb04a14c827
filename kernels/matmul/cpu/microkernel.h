// The innermost loop of gemm: a tile of C in registers.
#pragma once

#include "cpu/simd.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// C[kRows][kVectors·kLanes] (+)= sum over k of a[k][kRows] · b[k][kVectors·kLanes], packed panels, fp32.
//
//            b: one row per k, kVectors registers
//   a: one   +--------+--------+
//   scalar   |  acc   |  acc   |   every accumulator is a register; per step of k,
//   per row, +--------+--------+   kVectors loads and kRows broadcasts feed
//   broad-   |  acc   |  acc   |   kRows·kVectors multiply-adds
//   cast     +--------+--------+
template <int kRows, int kVectors>
void multiply_tile(int64_t k, const float* a, const float* b, float* c, bool accumulate) {
  vf acc[kRows][kVectors];
  TW_UNROLL for (int i = 0; i < kRows; ++i) {
    TW_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = zero();
  }
  for (; k > 0; --k, a += kRows, b += kVectors * kLanes) {
    vf row[kVectors];
    TW_UNROLL for (int j = 0; j < kVectors; ++j) row[j] = load(b + j * kLanes);
    TW_UNROLL for (int i = 0; i < kRows; ++i) {
      const vf scalar = broadcast(a[i]);
      TW_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(scalar, row[j], acc[i][j]);
    }
  }
  // Each block of k is summed on its own and then added: over long k that is more accurate than one chain.
  TW_UNROLL for (int i = 0; i < kRows; ++i) {
    TW_UNROLL for (int j = 0; j < kVectors; ++j) {
      float* at = c + (i * kVectors + j) * kLanes;
      store(at, accumulate ? load(at) + acc[i][j] : acc[i][j]);
    }
  }
}

using TileKernel = void (*)(int64_t k, const float* a, const float* b, float* c, bool accumulate);

// Register tiles, the most rows for each count of vectors: kRows·kVectors accumulators, kVectors rows of b
// and a broadcast fit the 32 (AVX-512) or 16 registers. GCC 12's assembly has no spills with these.
#if defined(__AVX512F__)
constexpr int kMaxVectors = 4;
constexpr int kMaxRows[] = {0, 16, 14, 9, 6};
#elif defined(__AVX2__)
constexpr int kMaxVectors = 3;
constexpr int kMaxRows[] = {0, 12, 6, 4};
#else
constexpr int kMaxVectors = 3;
constexpr int kMaxRows[] = {0, 10, 6, 4};
#endif
constexpr int kMostRows = kMaxRows[1];

// Every smaller tile is compiled too, so that edges do not multiply padding.
struct TileTable {
  TileKernel at[kMostRows + 1][kMaxVectors + 1];
};

template <int kRows, int kVectors>
constexpr void fill(TileTable& table) {
  if constexpr (kRows <= kMaxRows[kVectors]) table.at[kRows][kVectors] = multiply_tile<kRows, kVectors>;
  if constexpr (kRows > 1) {
    fill<kRows - 1, kVectors>(table);
  } else if constexpr (kVectors > 1) {
    fill<kMostRows, kVectors - 1>(table);
  }
}

constexpr TileTable make_tiles() {
  TileTable table{};
  fill<kMostRows, kMaxVectors>(table);
  return table;
}

constexpr TileTable kTiles = make_tiles();

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
