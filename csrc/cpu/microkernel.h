// Register tiles: the innermost loop of every matrix product on CPUs.
//
// B comes packed in panels of kPanel columns, in which all columns of one step of k lie side by side, so that
// it is read front to back. A is read row by row, up to kMaxRows rows at a time, where it lies or as a copy.
#pragma once

#include "cpu/tile_store.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// A panel of two vectors serves every tile: a tile of four takes two panels. So one packed weight serves
// every number of rows.
constexpr int kPanelVectors = 2;
constexpr int kPanel = kPanelVectors * kLanes;

// The most rows of a tile of one panel, and of one of two panels. The accumulators, the vectors of b and a
// broadcast fit the 32 (AVX-512, aarch64) or 16 registers; tools/check_spills.py reads the assembly.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kMaxRows = 14;
constexpr int kMaxRowsWide = 6;
#else
constexpr int kMaxRows = 6;
constexpr int kMaxRowsWide = 0;  // there is no such tile
#endif

// The most steps that one chain of fp32 additions runs over. The sums of each such block are added to those
// of the blocks before it: the error grows with the square root of the terms in a chain, and a chain over all
// of K, or of a window, erred four times as much as torch's vendor libraries. Costs one addition in kChain.
// Products of 16-bit operands are rounded so much coarser in the end that theirs go without.
constexpr int64_t kChain = 256;
constexpr int64_t kEndless = int64_t{1} << 62;

// One step of a product in fp32: rows of A in fp32, a panel of B stored as B and widened when loaded.
template <class B>
struct WidenedStep {
  using AUnit = float;
  using BUnit = B;
  using Result = B;                 // what tiles that finish themselves write
  static constexpr int kDepth = 1;  // values of k in a step
  static constexpr int64_t kChainSteps = sizeof(B) == 4 ? kChain : kEndless;

  TW_INLINE static vf load_b(const B* p) {
    return load(p);
  }
  TW_INLINE static vf broadcast_a(const char* p) {
    float value;
    __builtin_memcpy(&value, p, sizeof value);
    return broadcast(value);
  }
  TW_INLINE static vf multiply_add(vf a, vf b, vf sum) {
    return fma(a, b, sum);
  }
};

#if defined(__AVX512F__)
// One step through the processor's bf16 dot products: two values of k, side by side in 32 bits, on both
// sides. Sums are fp32; subnormal operands and results count as zero. For processors with AVX512-BF16 only.
struct Bf16PairStep {
  using AUnit = uint32_t;
  using BUnit = uint32_t;
  using Result = bf16_by_unit;
  static constexpr int kDepth = 2;
  static constexpr int64_t kChainSteps = kEndless;

  TW_INLINE static vf load_b(const uint32_t* p) {
    return load(reinterpret_cast<const float*>(p));
  }
  TW_INLINE static vf broadcast_a(const char* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);  // two bf16 values need not be aligned as one word
    return (vf)_mm512_set1_epi32(pair);
  }
  // Written as assembly because the intrinsic would need the whole object to be compiled for AVX512-BF16.
  TW_INLINE static vf multiply_add(vf a, vf b, vf sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
};
#endif

// Stores the sums of a block of steps, acc[0], and begins the next.
template <int kChains, int kRows, int kVectors>
TW_INLINE void set_aside(float* c, vf (&acc)[kChains][kRows][kVectors]) {
  TW_UNROLL for (int i = 0; i < kRows; ++i) {
    TW_UNROLL for (int j = 0; j < kVectors; ++j) {
      store(c + (i * kVectors + j) * kLanes, acc[0][i][j]);
      TW_UNROLL for (int chain = 0; chain < kChains; ++chain) acc[chain][i][j] = zero();
    }
  }
}

// What a tile is given. Strides of B are in units of the packed operand, those of A and prefetching in bytes.
struct TileArguments {
  int64_t steps;           // of k
  const void* a;           // [rows][steps]
  int64_t a_row;           // from a row of a to the next
  const void* b;           // per panel [steps][kPanel]
  int64_t panel_stride;    // from a panel of b to the next
  float* c;                // [rows][vectors·kLanes]
  bool accumulate;         // add to c
  const TileStore* store;  // null: the sums go to c; else they are finished and go there
  uintptr_t prefetch;      // fetched into L2 on the way, two cache lines in each step
  int64_t prefetch_step;   // from step to step; 0: nothing new
};

// C[kRows][kVectors·kLanes] (+)= sum over k of a[kRows][k] · b[k][kVectors·kLanes]
//
//            b: one row per step, kVectors registers
//   a: one   +--------+--------+
//   scalar   |  acc   |  acc   |   every accumulator is a register; per step of k,
//   per row, +--------+--------+   kVectors loads and kRows broadcasts feed
//   broad-   |  acc   |  acc   |   kRows·kVectors multiply-adds
//   cast     +--------+--------+
//
// A multiply-add takes four cycles and two start in each, so fewer than eight accumulators would wait for
// themselves: small tiles keep several sums of interleaved steps, added at the end.
template <class Step, int kRows, int kVectors>
void multiply_tile(const TileArguments& t) {
  using BUnit = typename Step::BUnit;
  constexpr int64_t kAUnit = sizeof(typename Step::AUnit);
  constexpr int kTile = kRows * kVectors;
  constexpr int kChains = kTile >= 8 ? 1 : (kTile >= 4 ? 2 : 4);
#if defined(__AVX2__) || defined(__aarch64__)
  constexpr int kUnroll = kChains > 2 ? kChains : 2;
#else
  constexpr int kUnroll = kChains;  // products need registers of their own: a second step would push sums out
#endif
  vf acc[kChains][kRows][kVectors];
  TW_UNROLL for (int chain = 0; chain < kChains; ++chain) {
    TW_UNROLL for (int i = 0; i < kRows; ++i) {
      TW_UNROLL for (int j = 0; j < kVectors; ++j) acc[chain][i][j] = zero();
    }
  }
  // A pointer for every three rows: the other two are one and two strides further, which an address can say.
  // Hidden from the optimiser below, which would make a pointer of every row and keep most of them in memory.
  constexpr int kPointers = (kRows + 2) / 3;
  const char* a[kPointers];
  const int64_t a_row = t.a_row;
  TW_UNROLL for (int p = 0; p < kPointers; ++p) a[p] = static_cast<const char*>(t.a) + 3 * p * a_row;
  const BUnit* b = static_cast<const BUnit*>(t.b);
  [[maybe_unused]] const BUnit* second = b + t.panel_stride;
  uintptr_t prefetch = t.prefetch;
  const auto step = [&](int u, int chain) __attribute__((always_inline)) {
    vf row[kVectors];
    TW_UNROLL for (int j = 0; j < kVectors; ++j) {
      const BUnit* panel = j < kPanelVectors ? b : second;
      row[j] = Step::load_b(panel + u * kPanel + j % kPanelVectors * kLanes);
    }
    TW_UNROLL for (int i = 0; i < kRows; ++i) {
      const vf scalar = Step::broadcast_a(a[i / 3] + i % 3 * a_row + u * kAUnit);
      TW_UNROLL for (int j = 0; j < kVectors; ++j) {
        acc[chain][i][j] = Step::multiply_add(scalar, row[j], acc[chain][i][j]);
      }
    }
  };
  bool accumulate = t.accumulate;
  int64_t left = t.steps;
  while (true) {
    int64_t steps = left < Step::kChainSteps ? left : Step::kChainSteps;
    left -= steps;
    for (; steps >= kUnroll; steps -= kUnroll) {
      TW_UNROLL for (int u = 0; u < kUnroll; ++u) {
        __builtin_prefetch(reinterpret_cast<const void*>(prefetch), 0, 2);
        __builtin_prefetch(reinterpret_cast<const void*>(prefetch + 64), 0, 2);
        prefetch += static_cast<uintptr_t>(t.prefetch_step);
        step(u, u % kChains);
      }
      TW_UNROLL for (int p = 0; p < kPointers; ++p) {
        a[p] += kUnroll * kAUnit;
        asm("" : "+r"(a[p]));
      }
      b += kUnroll * kPanel;
      if constexpr (kVectors > kPanelVectors) second += kUnroll * kPanel;
    }
    for (; steps > 0; --steps) {
      step(0, 0);
      TW_UNROLL for (int p = 0; p < kPointers; ++p) a[p] += kAUnit;
      b += kPanel;
      if constexpr (kVectors > kPanelVectors) second += kPanel;
    }
    TW_UNROLL for (int i = 0; i < kRows; ++i) {
      TW_UNROLL for (int j = 0; j < kVectors; ++j) {
        TW_UNROLL for (int chain = 1; chain < kChains; ++chain) acc[0][i][j] += acc[chain][i][j];
        if (accumulate) acc[0][i][j] = load(t.c + (i * kVectors + j) * kLanes) + acc[0][i][j];
      }
    }
    if (left == 0) break;
    set_aside(t.c, acc);
    accumulate = true;
  }
  if constexpr (kRoundsByUnit<typename Step::Result>) {
    if (t.store != nullptr) {
      store_sums<typename Step::Result, kRows>(acc[0], *t.store);
      return;
    }
  }
  TW_UNROLL for (int i = 0; i < kRows; ++i) {
    TW_UNROLL for (int j = 0; j < kVectors; ++j) store(t.c + (i * kVectors + j) * kLanes, acc[0][i][j]);
  }
}

using TileKernel = void (*)(const TileArguments&);

// Every smaller tile is compiled too, so that edges do not multiply padding: one or two vectors of a panel
// with up to kMaxRows rows, two whole panels with up to kMaxRowsWide.
template <class Step>
struct TileTable {
  TileKernel at[kMaxRows + 1][2 * kPanelVectors + 1] = {};

  constexpr TileTable() {
    fill<1>();
  }

 private:
  template <int kRows>
  constexpr void fill() {
    at[kRows][1] = multiply_tile<Step, kRows, 1>;
    at[kRows][2] = multiply_tile<Step, kRows, 2>;
    if constexpr (kRows <= kMaxRowsWide) at[kRows][3] = at[kRows][4] = multiply_tile<Step, kRows, 4>;
    if constexpr (kRows < kMaxRows) fill<kRows + 1>();
  }
};

template <class Step>
inline constexpr TileTable<Step> kTiles{};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
