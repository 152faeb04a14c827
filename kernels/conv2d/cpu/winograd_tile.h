// The two-dimensional transforms of Winograd's convolution, one tile at a time, a vector of channels side by
// side. Positions are numbered row · kPoints + column.
#pragma once

#include "conv2d/cpu/winograd_points.h"
#include "cpu/microkernel.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// Neighbouring tiles that are handled together: their 28 columns fill the vectors of a transposition.
constexpr int kRunTiles = 7;
constexpr int kRunColumns = kRunTiles * kTileSide;

// The pixels of x under a run of tiles, as fp32: six rows fit L1. Distances are constants, so that a patch's
// 36 addresses take one register.
constexpr int kSlabChannels = 2 * kLanes;
constexpr int kSlabRow = (kRunColumns + 2) * kSlabChannels;

// The outputs of a run, for one panel of output channels.
constexpr int kOutputRow = kRunColumns * kPanel;

namespace winograd {

// Vectors in which a half-transformed tile waits: the 36 of them do not fit the registers.
struct HalfWay {
  alignas(64) float value[kPoints][kPoints][kLanes];
};

// Addresses of six things that lie `step` apart, in four registers: an address scales by two and four.
struct Six {
  int64_t at[kPoints];

  TW_INLINE explicit Six(int64_t step) {
    int64_t once = step, thrice = 3 * step, five = 5 * step;
    asm("" : "+r"(once), "+r"(thrice), "+r"(five));
    const int64_t steps[kPoints] = {0, once, 2 * once, thrice, 4 * once, five};
    TW_UNROLL for (int i = 0; i < kPoints; ++i) at[i] = steps[i];
  }
};

// Two rows of positions of a tile with four rows of outputs, which need but two rows of half-transformed
// vectors: they stay in registers, and pixels are read three times instead.
template <int kPair, int kCols>
TW_INLINE void evaluate_two_rows(float* to, int64_t position, const Six& positions, const float* from) {
  vf one[kPoints], other[kPoints], t[kPoints];
  TW_UNROLL for (int j = 0; j < kCols + 2; ++j) {
    vf d[kPoints];
    TW_UNROLL for (int i = 0; i < kPoints; ++i) {
      const bool used = kPair == 0 || (i > 0 && i < kPoints - 1);
      if (used) d[i] = load(from + i * kSlabRow + j * kSlabChannels);
    }
    evaluate_pair<kPair>(d, one[j], other[j]);
  }
  to += 2 * kPair * kPoints * position;
  evaluate<kCols>(one, t);
  TW_UNROLL for (int j = 0; j < kCols + 2; ++j) store(to + positions.at[j], t[j]);
  to += kPoints * position;
  evaluate<kCols>(other, t);
  TW_UNROLL for (int j = 0; j < kCols + 2; ++j) store(to + positions.at[j], t[j]);
}

template <int kRows, int kCols>
void evaluate_patch(float* to, int64_t position, const float* from) {
  const Six positions(position);
  if constexpr (kRows == kTileSide) {
    evaluate_two_rows<0, kCols>(to, position, positions, from);
    evaluate_two_rows<1, kCols>(to, position, positions, from);
    evaluate_two_rows<2, kCols>(to, position, positions, from);
    return;
  }
  HalfWay half;
  for (int j = 0; j < kCols + 2; ++j) {
    vf d[kPoints], t[kPoints];
    TW_UNROLL for (int i = 0; i < kRows + 2; ++i) d[i] = load(from + i * kSlabRow + j * kSlabChannels);
    evaluate<kRows>(d, t);
    TW_UNROLL for (int i = 0; i < kRows + 2; ++i) store(half.value[i][j], t[i]);
  }
  for (int i = 0; i < kRows + 2; ++i) {
    vf d[kPoints], t[kPoints];
    TW_UNROLL for (int j = 0; j < kCols + 2; ++j) d[j] = load(half.value[i][j]);
    evaluate<kCols>(d, t);
    TW_UNROLL for (int j = 0; j < kCols + 2; ++j) store(to + positions.at[j], t[j]);
    to += kPoints * position;
  }
}

template <int kRows, int kCols>
void interpolate_tile(float* z, const float* from, int64_t position) {
  const Six positions(kPoints * position);
  HalfWay half;
  for (int j = 0; j < kCols + 2; ++j) {
    vf m[kPoints], y[kTileSide];
    TW_UNROLL for (int i = 0; i < kRows + 2; ++i) m[i] = load(from + positions.at[i]);
    interpolate<kRows>(m, y);
    TW_UNROLL for (int i = 0; i < kRows; ++i) store(half.value[i][j], y[i]);
    from += position;
  }
  for (int i = 0; i < kRows; ++i) {
    vf m[kPoints], y[kTileSide];
    TW_UNROLL for (int j = 0; j < kCols + 2; ++j) m[j] = load(half.value[i][j]);
    interpolate<kCols>(m, y);
    TW_UNROLL for (int j = 0; j < kCols; ++j) store(z + i * kOutputRow + j * kPanel, y[j]);
  }
}

using Evaluate = void (*)(float* to, int64_t position, const float* from);
using Interpolate = void (*)(float* z, const float* from, int64_t position);

// at[rows of outputs - 1][columns of outputs - 1]
struct Transforms {
  Evaluate evaluate[kTileSide][kTileSide];
  Interpolate interpolate[kTileSide][kTileSide];

  constexpr Transforms() {
    fill<1>();
  }

 private:
  template <int kRows>
  constexpr void fill() {
    fill<kRows, 1>();
    if constexpr (kRows < kTileSide) fill<kRows + 1>();
  }
  template <int kRows, int kCols>
  constexpr void fill() {
    evaluate[kRows - 1][kCols - 1] = evaluate_patch<kRows, kCols>;
    interpolate[kRows - 1][kCols - 1] = interpolate_tile<kRows, kCols>;
    if constexpr (kCols < kTileSide) fill<kRows, kCols + 1>();
  }
};

inline constexpr Transforms kTransforms{};

}  // namespace winograd

// to[position][channel] = (B^T d B)[position] for the patch d[rows + 2][cols + 2] of the slab under a tile of
// `rows` times `cols` outputs; matrices of positions are `position` floats apart.
inline void transform_patch(float* to, int64_t position, const float* from, int rows, int cols, int vectors) {
  const winograd::Evaluate transform = winograd::kTransforms.evaluate[rows - 1][cols - 1];
  for (int c = 0; c < vectors * kLanes; c += kLanes) transform(to + c, position, from + c);
}

// z[row][column][channel] = (A^T m A)[row][column] for a tile of `rows` times `cols` outputs.
inline void transform_sums(float* z, const float* from, int64_t position, int rows, int cols, int vectors) {
  const winograd::Interpolate transform = winograd::kTransforms.interpolate[rows - 1][cols - 1];
  for (int c = 0; c < vectors * kLanes; c += kLanes) transform(z + c, from + c, position);
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
