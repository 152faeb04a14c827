// The register tile of direct convolution: a few runs of neighbouring output pixels times one panel of output
// channels, summed over the whole window before anything of y is stored.
#pragma once

#include "cpu/microkernel.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// Two runs of pixels make a tile as tall as a matrix product's.
constexpr int kMaxRun = kMaxRows / 2;

// What a tile is given. The window is cut into segments of values that lie side by side in x for each pixel.
struct WindowArguments {
  const int64_t* segments;  // where each begins, bytes from the pixel's first value
  int64_t segment_count;
  int64_t steps;           // of one segment
  const char* a[2];        // the first value of each run's first pixel
  int64_t a_pixel;         // bytes from a pixel of a run to the next
  const void* b;           // [segment][step][kPanel]
  float* c;                // [run][pixel][kVectors·kLanes]
  const TileStore* store;  // null: the sums go to c; else they are finished and go there
  uintptr_t prefetch;      // fetched into L2 on the way, one cache line in each step
  int64_t prefetch_step;   // from step to step; 0: nothing new
};

// C[pixels][kVectors·kLanes] = sum over the window of x[pixel][step] · b[step][kVectors·kLanes] for kRows /
// kRun runs of kRun pixels.
//
// The pixels of a run are a_pixel apart, so the addresses of seven of them take four registers: those of the
// first, and of 1, 3 and 5 times the distance, scaled by the instruction. Two runs need not lie near each
// other: they may belong to two rows of the image.
template <class Step, int kRun, int kRows, int kVectors>
void window_tile(const WindowArguments& t) {
  using BUnit = typename Step::BUnit;
  constexpr int64_t kAUnit = sizeof(typename Step::AUnit);
  constexpr int kRuns = kRows / kRun;
  constexpr int kTile = kRows * kVectors;
  // As in multiply_tile: a multiply-add takes four cycles and two start in each.
  constexpr int kChains = kTile >= 8 ? 1 : (kTile >= 4 ? 2 : 4);
#if defined(__AVX2__) || defined(__aarch64__)
  constexpr int kUnroll = kChains > 2 ? kChains : 2;
#else
  constexpr int kUnroll = kChains;
#endif
  static_assert(kRun <= 7 && kRuns <= 2 && kVectors <= kPanelVectors);
  vf acc[kChains][kRows][kVectors];
  TW_UNROLL for (int chain = 0; chain < kChains; ++chain) {
    TW_UNROLL for (int i = 0; i < kRows; ++i) {
      TW_UNROLL for (int j = 0; j < kVectors; ++j) acc[chain][i][j] = zero();
    }
  }
  // Hidden from the optimiser, which would otherwise make a pointer of every pixel.
  int64_t once = t.a_pixel, thrice = 3 * once, five = 5 * once;
  asm("" : "+r"(once), "+r"(thrice), "+r"(five));
  const int64_t apart[7] = {0, once, 2 * once, thrice, 4 * once, five, 2 * thrice};
  const BUnit* b = static_cast<const BUnit*>(t.b);
  uintptr_t prefetch = t.prefetch;
  bool accumulate = false;
  const auto add_up = [&]() __attribute__((always_inline)) {
    TW_UNROLL for (int i = 0; i < kRows; ++i) {
      TW_UNROLL for (int j = 0; j < kVectors; ++j) {
        TW_UNROLL for (int chain = 1; chain < kChains; ++chain) acc[0][i][j] += acc[chain][i][j];
        if (accumulate) acc[0][i][j] = load(t.c + (i * kVectors + j) * kLanes) + acc[0][i][j];
      }
    }
  };
  int64_t chained = 0;  // steps in the present chains
  for (int64_t segment = 0; segment < t.segment_count; ++segment) {
    const char* a[kRuns];
    TW_UNROLL for (int run = 0; run < kRuns; ++run) a[run] = t.a[run] + t.segments[segment];
    const auto step = [&](int u, int chain) __attribute__((always_inline)) {
      vf row[kVectors];
      TW_UNROLL for (int j = 0; j < kVectors; ++j) row[j] = Step::load_b(b + u * kPanel + j * kLanes);
      TW_UNROLL for (int i = 0; i < kRows; ++i) {
        const vf scalar = Step::broadcast_a(a[i / kRun] + apart[i % kRun] + u * kAUnit);
        TW_UNROLL for (int j = 0; j < kVectors; ++j) {
          acc[chain][i][j] = Step::multiply_add(scalar, row[j], acc[chain][i][j]);
        }
      }
    };
    for (int64_t left = t.steps; left > 0;) {
      int64_t steps = left < Step::kChainSteps ? left : Step::kChainSteps;
      left -= steps;
      chained += steps;
      for (; steps >= kUnroll; steps -= kUnroll) {
        TW_UNROLL for (int u = 0; u < kUnroll; ++u) {
          __builtin_prefetch(reinterpret_cast<const void*>(prefetch), 0, 2);
          prefetch += static_cast<uintptr_t>(t.prefetch_step);
          step(u, u % kChains);
        }
        TW_UNROLL for (int run = 0; run < kRuns; ++run) {
          a[run] += kUnroll * kAUnit;
          asm("" : "+r"(a[run]));
        }
        b += kUnroll * kPanel;
      }
      for (; steps > 0; --steps) {
        step(0, 0);
        TW_UNROLL for (int run = 0; run < kRuns; ++run) a[run] += kAUnit;
        b += kPanel;
      }
      if (chained >= Step::kChainSteps && (left > 0 || segment + 1 < t.segment_count)) {
        add_up();
        set_aside(t.c, acc);
        accumulate = true;
        chained = 0;
      }
    }
  }
  add_up();
  if constexpr (kRoundsByUnit<typename Step::Result>) {
    if (t.store != nullptr) {
      store_sums<typename Step::Result, kRun>(acc[0], *t.store);
      return;
    }
  }
  TW_UNROLL for (int i = 0; i < kRows; ++i) {
    TW_UNROLL for (int j = 0; j < kVectors; ++j) store(t.c + (i * kVectors + j) * kLanes, acc[0][i][j]);
  }
}

using WindowKernel = void (*)(const WindowArguments&);

// at[pixels of a run][runs][vectors]
template <class Step>
struct WindowTable {
  WindowKernel at[kMaxRun + 1][3][kPanelVectors + 1] = {};

  constexpr WindowTable() {
    fill<1>();
  }

 private:
  template <int kRun>
  constexpr void fill() {
    at[kRun][1][1] = window_tile<Step, kRun, kRun, 1>;
    at[kRun][1][2] = window_tile<Step, kRun, kRun, 2>;
    at[kRun][2][1] = window_tile<Step, kRun, 2 * kRun, 1>;
    at[kRun][2][2] = window_tile<Step, kRun, 2 * kRun, 2>;
    if constexpr (kRun < kMaxRun) fill<kRun + 1>();
  }
};

template <class Step>
inline constexpr WindowTable<Step> kWindows{};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
