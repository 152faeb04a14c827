// Copies of the operands in the order that 16-byte copies want: x in channels_last, the weight as a matrix
// whose rows are output channels and whose columns are the terms (r, s, c). Both may pad the channels of a
// group with zeros.
//
// Transposing x moves its bytes twice and is done once; gathering NCHW element by element takes several
// instructions per element and tap, for every block of output channels anew. So staging wins unless a
// convolution has hardly any taps and output channels, which is for the tuner to say
// (Conv2dArguments::stage_x).
#pragma once

#include "cuda/fast_divide.h"
#include "cuda/platform.cuh"
#include "cuda/ptx/sync.cuh"

namespace tilewright::cuda::conv {

struct StageImage {
  const void* x;
  void* staged;          // pixels × groups × padded channels, dense
  uint32_t pixels;       // of the batch
  int channels, padded;  // of a group
  int64_t columns;       // groups · padded
  int64_t x_n, x_c, x_h, x_w;
  FastDivisor by_pixels, by_width, by_padded;
};

inline constexpr int kStagePixels = 32, kStageWords = 32, kStageThreads = 256;
inline constexpr int kStagePitch =
    kStagePixels + 1;  // words; an odd number keeps both directions free of conflicts
inline constexpr size_t kStageShared = size_t{kStageWords} * kStagePitch * 4;

// A block transposes 32 pixels × 32 words of channels (two of 16 bits to a word): lanes read neighbouring
// pixels and write neighbouring channels.
template <class Bits>  // uint16_t, uint32_t
TILEWRIGHT_KERNEL void __launch_bounds__(kStageThreads)
    stage_image(const __grid_constant__ StageImage image) {
  TILEWRIGHT_SHARED(shared);
  uint32_t* const words = reinterpret_cast<uint32_t*>(shared);
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(Bits)), kWarps = kStageThreads / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const uint32_t first_pixel = blockIdx.x * kStagePixels;
  const uint32_t first_column = blockIdx.y * (kStageWords * kPerWord);

  const uint32_t pixel = first_pixel + lane;
  const uint32_t n = image.by_pixels.divide(pixel), within = image.by_pixels.remainder(pixel, n);
  const uint32_t row = image.by_width.divide(within);
  const Bits* const x = static_cast<const Bits*>(image.x) + n * image.x_n + row * image.x_h +
                        image.by_width.remainder(within, row) * image.x_w;
  for (int word = warp; word < kStageWords; word += kWarps) {
    uint32_t value = 0;
#pragma unroll
    for (int i = 0; i < kPerWord; ++i) {
      const uint32_t column = first_column + word * kPerWord + i;
      const uint32_t group = image.by_padded.divide(column), c = image.by_padded.remainder(column, group);
      if (pixel < image.pixels && column < image.columns && static_cast<int>(c) < image.channels) {
        const uint32_t bits = x[(static_cast<int64_t>(group) * image.channels + c) * image.x_c];
        value |= bits << (i * 16);
      }
    }
    words[word * kStagePitch + lane] = value;
  }
  ptx::sync_threads();
  const uint32_t column = first_column + lane * kPerWord;
  if (column >= image.columns) return;
  for (int i = warp; i < kStagePixels; i += kWarps) {
    if (first_pixel + i >= image.pixels) break;
    uint32_t* const to = reinterpret_cast<uint32_t*>(static_cast<Bits*>(image.staged) +
                                                     (first_pixel + i) * image.columns + column);
    *to = words[lane * kStagePitch + i];
  }
}

struct PackWeight {
  const void* weight;
  void* packed;   // rows of `pitch` elements, (r·S + s)·padded + c
  uint32_t rows;  // output channels, of all groups
  int channels, padded, taps_h, taps_w;
  int64_t weight_k, weight_c, weight_r, weight_s, pitch;
  FastDivisor by_padded;
};

inline constexpr int kPackThreads = 128;

// A thread copies one channel of a row, tap by tap: in the contiguous layout its taps lie side by side, and
// what neighbouring threads write does.
template <class Bits>
TILEWRIGHT_KERNEL void __launch_bounds__(kPackThreads) pack_weight(const __grid_constant__ PackWeight pack) {
  const uint32_t index = blockIdx.x * kPackThreads + threadIdx.x;
  const uint32_t row = pack.by_padded.divide(index), c = pack.by_padded.remainder(index, row);
  if (row >= pack.rows) return;
  const bool exists = static_cast<int>(c) < pack.channels;
  const Bits* from =
      static_cast<const Bits*>(pack.weight) + row * pack.weight_k + (exists ? c * pack.weight_c : 0);
  Bits* to = static_cast<Bits*>(pack.packed) + row * pack.pitch + c;
  for (int r = 0; r < pack.taps_h; ++r) {
    for (int s = 0; s < pack.taps_w; ++s) {
      *to = exists ? from[r * pack.weight_r + s * pack.weight_s] : Bits{0};
      to += pack.padded;
    }
  }
  if (static_cast<int>(c) + 1 < pack.padded) return;
  to += 1 - pack.padded;  // the end of the terms
  for (int64_t i = int64_t{pack.taps_h} * pack.taps_w * pack.padded; i < pack.pitch; ++i) *to++ = Bits{0};
}

}  // namespace tilewright::cuda::conv
