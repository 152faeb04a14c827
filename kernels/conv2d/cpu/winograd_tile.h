// The two-dimensional transforms of Winograd's convolution, one tile at a time, a vector of channels side by
// side: first along the columns of the tile, then along its rows.
#pragma once

#include "conv2d/cpu/winograd_points.h"
#include "cpu/ranges.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// Where the pixels of a patch of x are, and where each of its positions goes. Pixels and positions are
// numbered row · kPoints + column.
template <class T>
struct Patch {
  const T* from[kPositions];
  float* to[kPositions];
};

// Vectors in which the half-transformed tile waits: the 36 of them do not fit the registers.
struct HalfWay {
  alignas(64) float value[kPoints][kPoints][kLanes];
};

namespace winograd {

template <int kOutputs, bool kWhole, class T>
void evaluate_columns(HalfWay& half, const T* const* from, int64_t channel, int used, int columns,
                      int64_t ahead) {
  for (int j = 0; j < columns; ++j) {
    vf d[kPoints], t[kPoints];
    TW_UNROLL for (int i = 0; i < kOutputs + 2; ++i) {
      const T* at = from[i * kPoints + j] + channel;
      __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + ahead));
      d[i] = kWhole ? load(at) : load_part(at, used);
    }
    evaluate<kOutputs>(d, t);
    TW_UNROLL for (int i = 0; i < kOutputs + 2; ++i) store(half.value[i][j], t[i]);
  }
}

template <int kOutputs>
void evaluate_rows(float* const* to, int64_t channel, const HalfWay& half, int rows) {
  for (int i = 0; i < rows; ++i) {
    vf d[kPoints], t[kPoints];
    TW_UNROLL for (int j = 0; j < kOutputs + 2; ++j) d[j] = load(half.value[i][j]);
    evaluate<kOutputs>(d, t);
    TW_UNROLL for (int j = 0; j < kOutputs + 2; ++j) store(to[i * kPoints + j] + channel, t[j]);
  }
}

template <int kOutputs>
void interpolate_columns(HalfWay& half, const float* const* from, int64_t channel, int columns) {
  for (int j = 0; j < columns; ++j) {
    vf m[kPoints], y[kTileSide];
    TW_UNROLL for (int i = 0; i < kOutputs + 2; ++i) m[i] = load(from[i * kPoints + j] + channel);
    interpolate<kOutputs>(m, y);
    TW_UNROLL for (int i = 0; i < kOutputs; ++i) store(half.value[i][j], y[i]);
  }
}

template <int kOutputs>
void interpolate_rows(float* z, int64_t z_row, int64_t z_col, const HalfWay& half, int rows) {
  for (int i = 0; i < rows; ++i) {
    vf m[kPoints], y[kTileSide];
    TW_UNROLL for (int j = 0; j < kOutputs + 2; ++j) m[j] = load(half.value[i][j]);
    interpolate<kOutputs>(m, y);
    TW_UNROLL for (int j = 0; j < kOutputs; ++j) store(z + i * z_row + j * z_col, y[j]);
  }
}

template <int kOutputs>
struct Outputs {
  static constexpr int value = kOutputs;
};

// Calls f with the number of outputs, 1 to 4, as a constant.
template <class F>
TW_INLINE void with_outputs(int outputs, F f) {
  switch (outputs) {
    case 1:
      return f(Outputs<1>{});
    case 2:
      return f(Outputs<2>{});
    case 3:
      return f(Outputs<3>{});
    default:
      return f(Outputs<4>{});
  }
}

}  // namespace winograd

// to[position][channel] = (B^T d B)[position] for the patch d[rows + 2][cols + 2] under a tile of `rows`
// times `cols` outputs. Whole vectors are written; channels that fill the last one are zero. The patch that
// lies `ahead` bytes further is fetched into L1 on the way: the order of access is none that the hardware
// foresees (with x in L3, Zen 5 is twice as fast with it).
template <class T>
void transform_patch(const Patch<T>& patch, int rows, int cols, int64_t channels, int64_t ahead) {
  HalfWay half;
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    winograd::with_outputs(rows, [&](auto outputs) __attribute__((always_inline)) {
      winograd::evaluate_columns<outputs.value, true>(half, patch.from, c, kLanes, cols + 2, ahead);
    });
    winograd::with_outputs(cols, [&](auto outputs) __attribute__((always_inline)) {
      winograd::evaluate_rows<outputs.value>(patch.to, c, half, rows + 2);
    });
  }
  if (c == channels) return;
  winograd::with_outputs(rows, [&](auto outputs) __attribute__((always_inline)) {
    winograd::evaluate_columns<outputs.value, false>(half, patch.from, c, static_cast<int>(channels - c),
                                                     cols + 2, ahead);
  });
  winograd::with_outputs(cols, [&](auto outputs) __attribute__((always_inline)) {
    winograd::evaluate_rows<outputs.value>(patch.to, c, half, rows + 2);
  });
}

// z[row · z_row + col · z_col + channel] = (A^T m A)[row][col] for a tile of `rows` times `cols` outputs and
// `vectors` vectors of channels.
inline void transform_sums(float* z, int64_t z_row, int64_t z_col, const float* const* from, int rows,
                           int cols, int vectors) {
  HalfWay half;
  for (int64_t c = 0; c < vectors * kLanes; c += kLanes) {
    winograd::with_outputs(rows, [&](auto outputs) __attribute__((always_inline)) {
      winograd::interpolate_columns<outputs.value>(half, from, c, cols + 2);
    });
    winograd::with_outputs(cols, [&](auto outputs) __attribute__((always_inline)) {
      winograd::interpolate_rows<outputs.value>(z + c, z_row, z_col, half, rows);
    });
  }
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
