// The register tile of grouped convolution: neighbouring output pixels of a row times one vector of output
// channels, each lane of which multiplies input channels of its own group.
#pragma once

#include "cpu/arithmetic.h"
#include "cpu/ranges.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// What a tile is given. `x` is the pixel where the window of the tile's first output pixel begins, at the
// first input channel of the vector's first group; it may lie outside of the image.
struct GroupedTile {
  const char* x;
  int64_t x_pixel, x_row;      // bytes from an input pixel to the next, and from a row of the window
  int64_t row_begin, row_end;  // rows of the window that lie in the image
  int64_t begin, end;          // input pixels from x on that do
  // From the row `fetch_from` of the window on, what lies `fetch` bytes further is fetched into L2.
  int64_t fetch_from, fetch, fetch_pixels;
  const float* weight;  // [input channel][row][column][kLanes]
  int64_t kernel_h, kernel_w, stride_w, dilation_w;
  int64_t channels;      // input channels of one group
  int64_t room;          // the last input channel, from x on, at which a whole vector may be read
  const int32_t* lanes;  // which channel from x on is the first of the lane's group
  const float* bias;     // [kLanes], null: none
  bool relu;
  bool sums;          // out is fp32, else as x
  char* out;          // [pixel][kLanes]
  int64_t out_pixel;  // bytes
};

// Windows that are compiled for their width and stride; kAnyWindow also serves dilated ones.
enum WindowKind { kWidth3, kWidth3Stride2, kWidth5, kWidth5Stride2, kWidth7, kAnyWindow, kWindowKinds };

template <WindowKind kKind>
struct WindowSize {
  static constexpr int kWidth = kKind == kWidth7 ? 7 : (kKind == kWidth5 || kKind == kWidth5Stride2 ? 5 : 3);
  static constexpr int kStride = kKind == kWidth3Stride2 || kKind == kWidth5Stride2 ? 2 : 1;
};

// Lanes read the vector's channels one to one, or each its own.
enum class Lanes { aligned, permuted };

// Sizes of tiles, in pixels. A row that no size divides is covered by tiles that overlap.
constexpr int kTileSizes[] = {1, 2, 4, 7, 8, 10, 14};
constexpr int kTileSizeCount = 7;

// The accumulators, one row of the window's weights, an input and an index fit the registers; tools/
// check_spills.py reads the assembly.
template <Lanes kLanesAre, WindowKind kKind>
constexpr int most_pixels() {
#if defined(__AVX512F__) || defined(__aarch64__)
  return 14;
#else
  constexpr int kWidth = kKind == kAnyWindow ? 1 : WindowSize<kKind>::kWidth;
#if defined(__AVX2__)
  constexpr int kProducts = 0;
#else
  constexpr int kProducts = WindowSize<kKind>::kStride == 2 ? 3 : 1;  // wait for their addition
#endif
  constexpr int kFree = 16 - kWidth - 2 - (kLanesAre == Lanes::permuted ? 1 : 0) - kProducts;
  return kFree >= 11 ? 10 : (kFree >= 9 ? 8 : (kFree >= 7 ? 7 : 4));
#endif
}

// Sums the window for kPixels pixels and one vector of channels. Products are added in the order of row,
// input channel, column, whatever the size of the tile.
//
//   a row of the window, stride 1:     x0  x1  x2  x3  x4 …       each input is loaded once per row and
//                                       \ / \ / \ /               meets every weight that it has to: with
//   accumulators, one per pixel         a0  a1  a2  …             three columns, three multiply-adds a load
template <class T, Lanes kLanesAre, WindowKind kKind, int kPixels>
void grouped_tile(const GroupedTile& t) {
  vf acc[kPixels];
  const vf first = t.bias == nullptr ? zero() : load(t.bias);
  TW_UNROLL for (int i = 0; i < kPixels; ++i) acc[i] = first;
  [[maybe_unused]] vi own{};
  if constexpr (kLanesAre == Lanes::permuted) __builtin_memcpy(&own, t.lanes, sizeof own);
  const int64_t row_weights = t.kernel_w * kLanes, channel_weights = t.kernel_h * row_weights;
  for (int64_t r = t.row_begin; r < t.row_end; ++r) {
    if (r >= t.fetch_from) {
      const char* next = t.x + r * t.x_row + t.fetch;
      for (int64_t j = 0; j < t.fetch_pixels; ++j, next += t.x_pixel) __builtin_prefetch(next, 0, 2);
    }
    // Channels within rows: their inputs lie in the same few lines.
    const float* weight = t.weight + r * row_weights;
    for (int64_t c = 0; c < t.channels; ++c, weight += channel_weights) {
      const char* at = t.x + r * t.x_row;
      [[maybe_unused]] vi index{};
      if constexpr (kLanesAre == Lanes::permuted) {
        const int64_t block = min(c - c % kLanes, t.room);
        at += block * static_cast<int64_t>(sizeof(T));
        index = own + static_cast<int32_t>(c - block);
      }
      const auto input = [&](const char* pixel) __attribute__((always_inline)) {
        const T* values = reinterpret_cast<const T*>(pixel);
        if constexpr (kLanesAre == Lanes::permuted) return load_permuted(values, index);
        return load(values);
      };
      if constexpr (kKind == kAnyWindow) {
        const int64_t step = t.stride_w * t.x_pixel;
        for (int64_t s = 0; s < t.kernel_w; ++s) {
          const vf tap = load(weight + s * kLanes);
          const int64_t column = s * t.dilation_w;
          const char* pixel = at + column * t.x_pixel;
          if (column >= t.begin && column + (kPixels - 1) * t.stride_w < t.end) {
            TW_UNROLL for (int i = 0; i < kPixels; ++i) {
              acc[i] = fma(input(pixel), tap, acc[i]);
              pixel += step;
              asm("" : "+r"(pixel));
            }
          } else {
            int64_t where = column;
            TW_UNROLL for (int i = 0; i < kPixels; ++i) {
              if (where >= t.begin && where < t.end) acc[i] = fma(input(pixel), tap, acc[i]);
              pixel += step;
              where += t.stride_w;
              asm("" : "+r"(pixel), "+r"(where));
            }
          }
        }
      } else {
        constexpr int kWidth = WindowSize<kKind>::kWidth, kStride = WindowSize<kKind>::kStride;
        constexpr int kInputs = (kPixels - 1) * kStride + kWidth;
        vf taps[kWidth];
        TW_UNROLL for (int s = 0; s < kWidth; ++s) taps[s] = load(weight + s * kLanes);
        TW_UNROLL for (int j = 0; j < kInputs; ++j) {
          // Padding is narrower than the window, so only inputs near the ends may lie in it.
          const bool inside = (j >= kWidth - 1 || j >= t.begin) && (j < kInputs - kWidth + 1 || j < t.end);
          if (inside) {
            const vf value = input(at);
            TW_UNROLL for (int s = 0; s < kWidth; ++s) {
              if (j >= s && (j - s) % kStride == 0 && (j - s) / kStride < kPixels) {
                acc[(j - s) / kStride] = fma(value, taps[s], acc[(j - s) / kStride]);
              }
            }
          }
          at += t.x_pixel;
          asm("" : "+r"(at));  // or the optimiser keeps an address for every input, on the stack
        }
      }
    }
  }
  if (t.relu) {
    TW_UNROLL for (int i = 0; i < kPixels; ++i) acc[i] = relu(acc[i]);
  }
  char* out = t.out;
  if (sizeof(T) == 4 || t.sums) {
    TW_UNROLL for (int i = 0; i < kPixels; ++i)
        store(reinterpret_cast<float*>(out + i * t.out_pixel), acc[i]);
  } else {
    TW_UNROLL for (int i = 0; i < kPixels; ++i) store(reinterpret_cast<T*>(out + i * t.out_pixel), acc[i]);
  }
}

using GroupedKernel = void (*)(const GroupedTile&);

// The tiles of one kind, by the index of their size; those that do not fit the registers are null.
struct GroupedTiles {
  GroupedKernel at[kTileSizeCount] = {};
};

template <class T, Lanes kLanesAre, WindowKind kKind>
constexpr GroupedTiles grouped_tiles() {
  GroupedTiles tiles;
  constexpr int kMost = most_pixels<kLanesAre, kKind>();
  tiles.at[0] = grouped_tile<T, kLanesAre, kKind, 1>;
  tiles.at[1] = grouped_tile<T, kLanesAre, kKind, 2>;
  tiles.at[2] = grouped_tile<T, kLanesAre, kKind, 4>;
  if constexpr (kMost >= 7) tiles.at[3] = grouped_tile<T, kLanesAre, kKind, 7>;
  if constexpr (kMost >= 8) tiles.at[4] = grouped_tile<T, kLanesAre, kKind, 8>;
  if constexpr (kMost >= 10) tiles.at[5] = grouped_tile<T, kLanesAre, kKind, 10>;
  if constexpr (kMost >= 14) tiles.at[6] = grouped_tile<T, kLanesAre, kKind, 14>;
  return tiles;
}

// Every kind of tile that is compiled. Wide windows and permutations of 16-bit values are not: there a copy
// that widens x costs little beside the arithmetic.
struct GroupedTable {
  GroupedTiles aligned[kWindowKinds] = {
      grouped_tiles<float, Lanes::aligned, kWidth3>(), grouped_tiles<float, Lanes::aligned, kWidth3Stride2>(),
      grouped_tiles<float, Lanes::aligned, kWidth5>(), grouped_tiles<float, Lanes::aligned, kWidth5Stride2>(),
      grouped_tiles<float, Lanes::aligned, kWidth7>(), grouped_tiles<float, Lanes::aligned, kAnyWindow>(),
  };
  GroupedTiles permuted[kWindowKinds] = {
      grouped_tiles<float, Lanes::permuted, kWidth3>(),
      grouped_tiles<float, Lanes::permuted, kWidth3Stride2>(),
      {},
      {},
      {},
      grouped_tiles<float, Lanes::permuted, kAnyWindow>(),
  };
#if defined(__AVX2__) || defined(__aarch64__)
  GroupedTiles bf16_aligned[2] = {grouped_tiles<bf16, Lanes::aligned, kWidth3>(),
                                  grouped_tiles<bf16, Lanes::aligned, kWidth3Stride2>()};
  GroupedTiles f16_aligned[2] = {grouped_tiles<f16, Lanes::aligned, kWidth3>(),
                                 grouped_tiles<f16, Lanes::aligned, kWidth3Stride2>()};
#endif
};

inline constexpr GroupedTable kGroupedTiles{};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
