// The epilogue for images that lie plane by plane (NCHW): the lanes' vectors run along pixels, not channels.
#pragma once

#include "cuda/epilogue.cuh"

namespace tilewright::cuda::conv {

// Where a row of a tile, a pixel, goes: offsets from the epilogue's pointers.
struct alignas(16) OutRow {
  int64_t y, residual;
};

struct OutRows {
  const OutRow* rows;

  TILEWRIGHT_DEVICE int64_t y(int row) const {
    return rows[row].y;
  }
  TILEWRIGHT_DEVICE int64_t residual(int row) const {
    return rows[row].residual;
  }
};

// Stores a warp's accumulators, as `store_warp_tile` does, eight pixels of a channel at a time:
//
//     staging, 16 pixels x 8·ni channels       lane = 16 · half + channel: rows 8·half .. 8·half + 7 of a
//     column,
//                                              16 channels at once
//
// `runs`: eight pixels that begin at a multiple of eight always are neighbours in y, and evenly apart in the
// residual
// (`residual_w`), and exist all or none. Strides of e's columns are those of channels.
template <int mi, int ni>
TILEWRIGHT_DEVICE void store_warp_planes(const float (&acc)[mi][ni][4], float* staging, const Epilogue& e,
                                         const OutRow* map, bool runs, int64_t residual_w, int row,
                                         int column, int rows, int columns) {
  constexpr int kStride = 8 * ni + 8;
  const int lane = static_cast<int>(threadIdx.x) % 32, half = lane / 16;
  float* const write = staging + lane / 4 * kStride + lane % 4 * 2;
  Epilogue along = e;
  along.y_strides[3] = 1;
#pragma unroll 1
  for (int slab = 0; slab < mi; ++slab) {
#pragma unroll
    for (int i = 0; i < mi; ++i) {
      if (i != slab) continue;  // accumulators are registers: their index is no variable
#pragma unroll
      for (int j = 0; j < ni; ++j) {
        *reinterpret_cast<float2*>(write + j * 8) = make_float2(acc[i][j][0], acc[i][j][1]);
        *reinterpret_cast<float2*>(write + j * 8 + 8 * kStride) = make_float2(acc[i][j][2], acc[i][j][3]);
      }
    }
    ptx::sync_warp();
    const int first = row + slab * 16 + half * 8;
#pragma unroll 1
    for (int step = 0; step < ni / 2; ++step) {
      const int at = step * 16 + lane % 16, channel = column + at;
      // The halves read rows that are two apart, so that their columns do not meet in a bank.
      const float* const from = staging + half * 8 * kStride + at;
      const int flip = half * 2;
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float value = from[(i ^ flip) * kStride];
        v[i] = value;
      }
      if (half != 0) {
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
          const float low = v[i], high = v[i + 1];
          v[i] = v[i + 2];
          v[i + 1] = v[i + 3];
          v[i + 2] = low;
          v[i + 3] = high;
        }
      }
      if (channel >= columns || first >= rows) continue;
      if (e.bias != nullptr) {
        float bias[8] = {};
        add_eight(
            bias,
            load_eight(advance(e.bias, channel * e.bias_strides[2], e.bias_type), e.bias_type, false, 0, 1),
            e.bias_type);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += bias[0];
      }
      const int64_t y = channel * e.y_strides[3], residual = channel * e.residual_strides[3];
      if (runs) {
        Eight addend;
        if (e.residual != nullptr) {
          addend = load_eight(advance(e.residual, map[first].residual + residual, e.residual_type),
                              e.residual_type, e.residual_vectors, residual_w, 8);
        }
        finish_eight(along, v, addend, map[first].y + y, 8);
        continue;
      }
#pragma unroll 1
      for (int i = 0; i < 8 && first + i < rows; ++i) {
        float one[8] = {v[0]};
#pragma unroll
        for (int j = 0; j < 7; ++j) v[j] = v[j + 1];  // registers have no index
        Eight addend;
        if (e.residual != nullptr) {
          addend = load_eight(advance(e.residual, map[first + i].residual + residual, e.residual_type),
                              e.residual_type, false, 0, 1);
        }
        finish_eight(along, one, addend, map[first + i].y + y, 1);
      }
    }
    ptx::sync_warp();
  }
}

}  // namespace tilewright::cuda::conv
