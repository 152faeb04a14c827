// The register tile of convolution plane by plane: rows of neighbouring output pixels of one output channel.
#pragma once

#include "cpu/activation.h"
#include "cpu/ranges.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// What a tile is given; distances are in floats. `x` is where the window of the tile's first output pixel
// begins in the slab of the group's first input channel.
struct PlaneTile {
  const float* x;
  int64_t channel, row, phase;  // from an input channel to the next, from a row, from a phase of columns
  int64_t channels;
  const float* weight;  // [input channel][row][column]
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  float bias;
  bool relu;
  float* out;
  int64_t out_row;
  int last;  // lanes of the last vector that are written
};

// Windows that are compiled for their size and stride; kAnyPlaneWindow also serves dilated ones.
enum PlaneWindow { k3x3, k3x3Stride2, k5x5, k5x5Stride2, kAnyPlaneWindow, kPlaneWindows };

// Without multiply-adds products take registers too, and 16 are not enough for several rows of a window.
#if defined(__AVX2__) || defined(__aarch64__)
constexpr bool kPlaneWindowsCompiled = true;
#else
constexpr bool kPlaneWindowsCompiled = false;
#endif

// Output rows of tiles. Heights that none divides are covered by tiles that overlap.
constexpr int kPlaneRows[] = {1, 2, 4, 7};
constexpr int kPlaneRowSizes = 4;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
constexpr int kPlaneVectors = 2;
#else
constexpr int kRegisters = 16;
constexpr int kPlaneVectors = 1;
#endif

// Neighbouring vectors of a slab's row, as taps see them: `apart` columns later.
template <int kVectors>
struct LoadedAgain {
  const float* row;

  TW_INLINE void load(const float* p) {
    row = p;
  }
  TW_INLINE vf at(int v, int apart) const {
    return tilewright::TILEWRIGHT_ISA_NAMESPACE::load(row + v * kLanes + apart);
  }
};

#if defined(__AVX512F__)
// The same, put together in registers: a vector of 64 bytes that does not begin with a cache line lies in
// two, and takes two loads.
template <int kVectors>
struct Aligned {
  vf vectors[kVectors + 1];

  TW_INLINE void load(const float* p) {
    TW_UNROLL for (int v = 0; v <= kVectors; ++v) {
      vectors[v] = tilewright::TILEWRIGHT_ISA_NAMESPACE::load(p + v * kLanes);
    }
  }
  TW_INLINE vf at(int v, int apart) const {
    const __m512i low = (__m512i)vectors[v], high = (__m512i)vectors[v + 1];
    switch (apart) {  // the instruction takes a constant
      case 1:
        return (vf)_mm512_alignr_epi32(high, low, 1);
      case 2:
        return (vf)_mm512_alignr_epi32(high, low, 2);
      case 3:
        return (vf)_mm512_alignr_epi32(high, low, 3);
      case 4:
        return (vf)_mm512_alignr_epi32(high, low, 4);
      default:
        return vectors[v];
    }
  }
};

// Not for every tap of 5×5 with stride 2: GCC 12 runs out of registers.
template <PlaneWindow kWindow, int kVectors>
struct InputRowOf {
  using Type = Aligned<kVectors>;
};
template <>
struct InputRowOf<k5x5Stride2, 1> {
  using Type = LoadedAgain<1>;
};
#else
template <PlaneWindow kWindow, int kVectors>
struct InputRowOf {
  using Type = LoadedAgain<kVectors>;
};
#endif

// Sums the window for `rows` rows of `vectors` vectors of neighbouring pixels. Products are added in the
// order of input channel, row, column, whatever the size of the tile.
//
// An input is loaded once for all rows of y that it concerns: of a 3×3 window with stride 1, three loads of a
// row (one column apart each) feed up to nine multiply-adds.
template <PlaneWindow kWindow, int kRows, int kVectors>
void plane_tile(const PlaneTile& t) {
  vf acc[kRows][kVectors];
  TW_UNROLL for (int o = 0; o < kRows; ++o) {
    TW_UNROLL for (int v = 0; v < kVectors; ++v) acc[o][v] = broadcast(t.bias);
  }
  const float* weight = t.weight;
  const float* from = t.x;
  for (int64_t c = 0; c < t.channels; ++c, from += t.channel) {
    if constexpr (kWindow == kAnyPlaneWindow) {
      for (int64_t r = 0; r < t.kernel_h; ++r) {
        for (int64_t s = 0; s < t.kernel_w; ++s) {
          const int64_t column = s * t.dilation_w;
          const float* at =
              from + r * t.dilation_h * t.row + column % t.stride_w * t.phase + column / t.stride_w;
          const vf tap = broadcast(*weight++);
          TW_UNROLL for (int o = 0; o < kRows; ++o) {
            TW_UNROLL for (int v = 0; v < kVectors; ++v) acc[o][v] =
                fma(load(at + v * kLanes), tap, acc[o][v]);
            at += t.stride_h * t.row;
            asm("" : "+r"(at));  // or the optimiser keeps an address for every row, on the stack
          }
        }
      }
    } else {
      constexpr int kSize = kWindow == k5x5 || kWindow == k5x5Stride2 ? 5 : 3;
      constexpr int kStride = kWindow == k3x3Stride2 || kWindow == k5x5Stride2 ? 2 : 1;
      // Where they do not fit beside the sums they are read again for every row, each time for all lanes.
      constexpr bool kKeepsWeights =
          kSize * kSize + kRows * kVectors + kStride * (kVectors + 1) + kVectors + 1 <= kRegisters;
      const float* line = from;
      TW_UNROLL for (int i = 0; i < (kRows - 1) * kStride + kSize; ++i) {
        typename InputRowOf<kWindow, kVectors>::Type inputs[kStride];
        TW_UNROLL for (int b = 0; b < kStride; ++b) inputs[b].load(line + b * t.phase);
        TW_UNROLL for (int s = 0; s < kSize; ++s) {
          vf in[kVectors];
          TW_UNROLL for (int v = 0; v < kVectors; ++v) in[v] = inputs[s % kStride].at(v, s / kStride);
          if constexpr (!kKeepsWeights) asm("" : "+r"(weight));
          TW_UNROLL for (int o = 0; o < kRows; ++o) {
            const int r = i - o * kStride;
            if (r >= 0 && r < kSize) {
              const vf tap = broadcast(weight[r * kSize + s]);
              TW_UNROLL for (int v = 0; v < kVectors; ++v) acc[o][v] = fma(in[v], tap, acc[o][v]);
            }
          }
        }
        line += t.row;
        asm("" : "+r"(line));
      }
      weight += kSize * kSize;
    }
  }
  float* out = t.out;
  TW_UNROLL for (int o = 0; o < kRows; ++o) {
    TW_UNROLL for (int v = 0; v < kVectors; ++v) {
      if (t.relu) acc[o][v] = relu(acc[o][v]);
      if (v + 1 < kVectors) {
        store(out + v * kLanes, acc[o][v]);
      } else {
        store_upto(out + v * kLanes, acc[o][v], t.last);
      }
    }
    out += t.out_row;
  }
}

using PlaneKernel = void (*)(const PlaneTile&);

// at[window][index of the rows][vectors - 1]
struct PlaneTable {
  PlaneKernel at[kPlaneWindows][kPlaneRowSizes][kPlaneVectors] = {};

  constexpr PlaneTable() {
    if constexpr (kPlaneWindowsCompiled) {
      fill<k3x3>();
      fill<k3x3Stride2>();
      fill<k5x5>();
      fill<k5x5Stride2>();
    }
    fill<kAnyPlaneWindow>();
  }

 private:
  template <PlaneWindow kWindow>
  constexpr void fill() {
    fill<kWindow, 1>();
    if constexpr (kPlaneVectors > 1) fill<kWindow, kPlaneVectors>();
  }
  template <PlaneWindow kWindow, int kVectors>
  constexpr void fill() {
    at[kWindow][0][kVectors - 1] = plane_tile<kWindow, 1, kVectors>;
    at[kWindow][1][kVectors - 1] = plane_tile<kWindow, 2, kVectors>;
    at[kWindow][2][kVectors - 1] = plane_tile<kWindow, 4, kVectors>;
    at[kWindow][3][kVectors - 1] = plane_tile<kWindow, 7, kVectors>;
  }
};

inline constexpr PlaneTable kPlaneTiles{};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
