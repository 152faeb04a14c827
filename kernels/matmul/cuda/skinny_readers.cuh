// How a warp of the skinny kernel multiplies a strip of 16-bit weight, straight from global memory: no
// element of B is used twice, so it never passes through shared memory. What a lane loads are 16 neighbouring
// bytes, and what it multiplies is what it loaded: k may be numbered in any order as long as A and B agree.
//
// A reader has `Chunk load()`, the lane's share of the next kDepth of k (zeros beyond the end), which may be
// under way while `multiply(chunk)` adds up an earlier one; and `store(sums, stride)`, which writes the
// warp's kM x kN sums. Rows and columns that do not exist repeat the last that does: they cost no memory
// traffic, and nobody stores their sums.
#pragma once

#include <cstring>

#include "cuda/platform.cuh"
#include "cuda/ptx.cuh"

namespace tilewright::cuda {

// A's and B's matrices at the block's first column; strides in bytes.
struct SkinnyOperands {
  const char *a, *b;
  int64_t a_row, b_stride;  // between rows of A; between columns of B (contiguous along k) or its rows
  int m, columns;           // rows of A and columns of B from the block's first on, at least 1 of each
  int column;               // the warp's first, in the block
  int k, step, end;         // the warp's first, how far it goes on from chunk to chunk, and where k ends
};

TILEWRIGHT_DEVICE uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

TILEWRIGHT_DEVICE int smaller(int a, int b) {
  return a < b ? a : b;
}

// B along k: the weight as the matrix unit's left operand, 16 of its columns a tile, eight rows of A as the
// right. Lane 4g + t loads k = 8t .. 8t+7 of columns g, g+8 and of row g, words w0 w1 w2 w3 each:
//
//     k         0..7    8..15   16..23  24..31        first product:  k in w0, w1 of all lanes
//     column g  [t = 0] [t = 1] [t = 2] [t = 3]       second:         k in w2, w3
template <class T, int rows_of_8, int tiles_of_16>
class SkinnyAlongK {
  static constexpr int kUnroll = tiles_of_16 == 1 ? 4 : 2;

 public:
  static constexpr int kM = 8 * rows_of_8, kN = 16 * tiles_of_16, kDepth = 32 * kUnroll, kElement = 2;
  static constexpr bool kColumn = true;  // B's columns are contiguous
  struct Chunk {
    uint4 a[kUnroll][rows_of_8], b[kUnroll][tiles_of_16][2];
  };

  TILEWRIGHT_DEVICE explicit SkinnyAlongK(const SkinnyOperands& o) {
    const int lane = threadIdx.x % 32, g = lane / 4;
    const int k = o.k + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < rows_of_8; ++i) {
      a_[i] = o.a + smaller(i * 8 + g, o.m - 1) * o.a_row + static_cast<int64_t>(k) * kElement;
    }
#pragma unroll
    for (int i = 0; i < 2 * tiles_of_16; ++i) {
      b_[i] = o.b + smaller(o.column + i * 8 + g, o.columns - 1) * o.b_stride +
              static_cast<int64_t>(k) * kElement;
    }
    left_ = o.end - k;
    step_ = o.step;
  }

  TILEWRIGHT_DEVICE Chunk load() {
    Chunk chunk;
    // Whole for all lanes or for none: the lanes of a chunk are at most 24 of k apart.
    if (left_ + static_cast<int>(threadIdx.x) % 4 * 8 >= kDepth) {
      fetch<true>(chunk);
    } else {
      fetch<false>(chunk);
    }
#pragma unroll
    for (int i = 0; i < rows_of_8; ++i) a_[i] += step_ * kElement;
#pragma unroll
    for (int i = 0; i < 2 * tiles_of_16; ++i) b_[i] += step_ * kElement;
    left_ -= step_;
    return chunk;
  }

  TILEWRIGHT_DEVICE void multiply(const Chunk& chunk) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int half = 0; half < 4; half += 2) {
#pragma unroll
        for (int tile = 0; tile < tiles_of_16; ++tile) {
          const uint4 &low = chunk.b[u][tile][0], &high = chunk.b[u][tile][1];
          const uint32_t left[4] = {word_of(low, half), word_of(high, half), word_of(low, half + 1),
                                    word_of(high, half + 1)};
#pragma unroll
          for (int i = 0; i < rows_of_8; ++i) {
            const uint32_t right[2] = {word_of(chunk.a[u][i], half), word_of(chunk.a[u][i], half + 1)};
            ptx::mma_m16n8k16<T>(sums_[tile][i], left, right);
          }
        }
      }
    }
  }

  // sums_[..][2p + q] is column g + 8p of its tile, row 2t + q.
  TILEWRIGHT_DEVICE void store(float* sums, int stride) const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int tile = 0; tile < tiles_of_16; ++tile) {
#pragma unroll
      for (int i = 0; i < rows_of_8; ++i) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          sums[(i * 8 + 2 * t + r % 2) * stride + tile * 16 + g + r / 2 * 8] = sums_[tile][i][r];
        }
      }
    }
  }

 private:
  template <bool whole>
  TILEWRIGHT_DEVICE void fetch(Chunk& chunk) const {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const bool exists = whole || u * 32 < left_;
#pragma unroll
      for (int i = 0; i < 2 * tiles_of_16; ++i) {
        uint4& to = chunk.b[u][i / 2][i % 2];
        to = uint4{0, 0, 0, 0};
        if (exists) to = ptx::load_streaming_16(b_[i] + u * 32 * kElement);
      }
#pragma unroll
      for (int i = 0; i < rows_of_8; ++i) {
        chunk.a[u][i] = uint4{0, 0, 0, 0};
        if (exists) chunk.a[u][i] = *reinterpret_cast<const uint4*>(a_[i] + u * 32 * kElement);
      }
    }
  }

  const char *a_[rows_of_8], *b_[2 * tiles_of_16];
  int left_, step_;  // of k, from this lane's first element on
  float sums_[tiles_of_16][rows_of_8][4] = {};
};

// B along n: A is the left operand, 16 rows. Lane 4g + t loads columns 8g .. 8g+7 of rows k = 8t .. 8t+7,
// whole lines of 64 columns, and pairs rows k, k+1 by permuting bytes: its column 8g + j is column g of the
// j-th product.
template <class T>
class SkinnyAlongN {
 public:
  static constexpr int kM = 16, kN = 64, kDepth = 32, kElement = 2;
  static constexpr bool kColumn = false;
  struct Chunk {
    uint4 a[2], b[8];
  };

  TILEWRIGHT_DEVICE explicit SkinnyAlongN(const SkinnyOperands& o) {
    const int lane = threadIdx.x % 32, g = lane / 4;
    const int k = o.k + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a_[i] = o.a + smaller(i * 8 + g, o.m - 1) * o.a_row + static_cast<int64_t>(k) * kElement;
    }
    // There are whole vectors of eight columns.
    b_ = o.b + k * o.b_stride + smaller(o.column + g * 8, o.columns - 8) * kElement;
    b_row_ = o.b_stride;
    b_step_ = o.step * o.b_stride;
    left_ = o.end - k;
    step_ = o.step;
  }

  TILEWRIGHT_DEVICE Chunk load() {
    Chunk chunk;
    const char* b = b_;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      chunk.b[i] = uint4{0, 0, 0, 0};
      if (i < left_) chunk.b[i] = ptx::load_streaming_16(b);
      b += b_row_;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      chunk.a[i] = uint4{0, 0, 0, 0};
      if (left_ > 0) chunk.a[i] = *reinterpret_cast<const uint4*>(a_[i]);
      a_[i] += step_ * kElement;
    }
    b_ += b_step_;
    left_ -= step_;
    return chunk;
  }

  TILEWRIGHT_DEVICE void multiply(const Chunk& chunk) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t left[4] = {word_of(chunk.a[0], 2 * half), word_of(chunk.a[1], 2 * half),
                                word_of(chunk.a[0], 2 * half + 1), word_of(chunk.a[1], 2 * half + 1)};
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const unsigned halves = j % 2 == 0 ? 0x5410 : 0x7632;
        const uint4* rows = chunk.b + 4 * half;
        const uint32_t right[2] = {__byte_perm(word_of(rows[0], j / 2), word_of(rows[1], j / 2), halves),
                                   __byte_perm(word_of(rows[2], j / 2), word_of(rows[3], j / 2), halves)};
        ptx::mma_m16n8k16<T>(sums_[j], left, right);
      }
    }
  }

  // sums_[j][2p + q] is row g + 8p, column 8(2t + q) + j.
  TILEWRIGHT_DEVICE void store(float* sums, int stride) const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        sums[(g + r / 2 * 8) * stride + (2 * t + r % 2) * 8 + j] = sums_[j][r];
      }
    }
  }

 private:
  const char *a_[2], *b_;
  int64_t b_row_, b_step_;
  int left_, step_;
  float sums_[8][4] = {};
};

}  // namespace tilewright::cuda
