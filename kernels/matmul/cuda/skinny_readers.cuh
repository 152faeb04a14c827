// How a warp of the skinny kernel multiplies a strip of the weight, straight from global memory: no element
// of B is used twice, so it never passes through shared memory. What a lane loads are 16 neighbouring bytes,
// and what it multiplies is what it loaded: k may be numbered in any order as long as A and B agree.
//
// A reader has `Chunk load(k)`, the lane's share of kDepth of k from k on (zeros beyond the end), which may
// be under way while `multiply(chunk)` adds up an earlier one; and `store(sums)`, which writes the warp's kM
// x kN sums.
#pragma once

#include <cstring>

#include "cuda/platform.cuh"
#include "cuda/ptx.cuh"

namespace tilewright::cuda {

// A's and B's matrices at the block's first column; strides in bytes.
struct SkinnyOperands {
  const char *a, *b;
  int64_t a_row, b_stride;  // between rows of A; between columns of B (along k contiguous) or its rows
  int m, columns;           // rows of A; columns of B from the block's first on
  int end;                  // of k
};

TILEWRIGHT_DEVICE uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

TILEWRIGHT_DEVICE float float_of(const uint4& v, int i) {
  const uint32_t bits = word_of(v, i);
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

inline constexpr int kSumsPad = 4;  // floats between rows of sums, so that rows begin in different banks

// 16-bit, B along k: the weight as the matrix unit's left operand, 16 of its columns a tile, eight rows of A
// as the right. Lane 4g + t loads k = 8t .. 8t+7 of columns g, g+8 and of row g, words w0 w1 w2 w3 each:
//
//     k         0..7    8..15   16..23  24..31        first product:  k in w0, w1 of all lanes
//     column g  [t = 0] [t = 1] [t = 2] [t = 3]       second:         k in w2, w3
template <class T, int rows_of_8, int tiles_of_16>
struct SkinnyAlongK {
  static constexpr int kM = 8 * rows_of_8, kN = 16 * tiles_of_16, kUnroll = tiles_of_16 == 1 ? 4 : 2;
  static constexpr int kDepth = 32 * kUnroll, kElement = 2;
  static constexpr bool kColumn = true;  // B's columns are contiguous
  struct Chunk {
    uint4 a[kUnroll][rows_of_8], b[kUnroll][tiles_of_16][2];
  };

  TILEWRIGHT_DEVICE explicit SkinnyAlongK(const SkinnyOperands& o) : end_(o.end) {
    const int lane = threadIdx.x % 32, g = lane / 4;
    first_ = lane % 4 * 8;
    a_ = o.a + g * o.a_row;
    b_ = o.b + g * o.b_stride;
    a_step_ = 8 * o.a_row;
    b_step_ = 8 * o.b_stride;
    rows_ = o.m - g;
    columns_ = o.columns - g;
  }

  TILEWRIGHT_DEVICE Chunk load(int from) const {
    Chunk chunk = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int k = from + u * 32 + first_;
      if (k >= end_) continue;
#pragma unroll
      for (int tile = 0; tile < 2 * tiles_of_16; ++tile) {
        if (tile * 8 < columns_) {
          chunk.b[u][tile / 2][tile % 2] =
              ptx::load_streaming_16(b_ + tile * b_step_ + static_cast<int64_t>(k) * kElement);
        }
      }
#pragma unroll
      for (int i = 0; i < rows_of_8; ++i) {
        if (i * 8 < rows_) {
          chunk.a[u][i] =
              *reinterpret_cast<const uint4*>(a_ + i * a_step_ + static_cast<int64_t>(k) * kElement);
        }
      }
    }
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
  TILEWRIGHT_DEVICE void store(float* sums) const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int tile = 0; tile < tiles_of_16; ++tile) {
#pragma unroll
      for (int i = 0; i < rows_of_8; ++i) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          sums[(i * 8 + 2 * t + r % 2) * (kN + kSumsPad) + tile * 16 + g + r / 2 * 8] = sums_[tile][i][r];
        }
      }
    }
  }

 private:
  const char *a_, *b_;
  int64_t a_step_, b_step_;
  int first_, end_, rows_, columns_;
  float sums_[tiles_of_16][rows_of_8][4] = {};
};

// 16-bit, B along n: A is the left operand, 16 rows. Lane 4g + t loads columns 8g .. 8g+7 of rows k = 8t ..
// 8t+7, whole lines of 64 columns, and pairs rows k, k+1 by permuting bytes: its column 8g + j is column g of
// the j-th product.
template <class T>
struct SkinnyAlongN {
  static constexpr int kM = 16, kN = 64, kDepth = 32, kElement = 2;
  static constexpr bool kColumn = false;
  struct Chunk {
    uint4 a[2], b[8];
  };

  TILEWRIGHT_DEVICE explicit SkinnyAlongN(const SkinnyOperands& o) : end_(o.end) {
    const int lane = threadIdx.x % 32, g = lane / 4;
    first_ = lane % 4 * 8;
    a_ = o.a + g * o.a_row;
    a_step_ = 8 * o.a_row;
    b_ = o.b + g * 16;
    b_row_ = o.b_stride;
    rows_ = o.m - g;
    exists_ = g * 8 < o.columns;
  }

  TILEWRIGHT_DEVICE Chunk load(int from) const {
    Chunk chunk = {};
    const int k = from + first_;
    const char* b = b_ + k * b_row_;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (exists_ && k + i < end_) chunk.b[i] = ptx::load_streaming_16(b);
      b += b_row_;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (i * 8 < rows_ && k < end_) {
        chunk.a[i] = *reinterpret_cast<const uint4*>(a_ + i * a_step_ + static_cast<int64_t>(k) * kElement);
      }
    }
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
  TILEWRIGHT_DEVICE void store(float* sums) const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        sums[(g + r / 2 * 8) * (kN + kSumsPad) + (2 * t + r % 2) * 8 + j] = sums_[j][r];
      }
    }
  }

 private:
  const char *a_, *b_;
  int64_t a_step_, b_row_;
  int first_, end_, rows_;
  bool exists_;
  float sums_[8][4] = {};
};

// fp32 in fp32 arithmetic, B along k: lanes divide k, four elements each, and the warp has `columns` columns.
// The lanes' sums are added by a butterfly that halves their number at every step: lane l ends up with the
// whole sums number l · share .. .
template <int rows, int columns>
struct SkinnyFloatAlongK {
  static constexpr int kM = rows, kN = columns, kDepth = 128, kElement = 4;
  static constexpr bool kColumn = true;
  static_assert(rows * columns % 32 == 0);
  struct Chunk {
    uint4 b[columns];
    int k;
  };

  TILEWRIGHT_DEVICE explicit SkinnyFloatAlongK(const SkinnyOperands& o) : o_(o) {}

  TILEWRIGHT_DEVICE Chunk load(int from) const {
    Chunk chunk = {};
    chunk.k = from + static_cast<int>(threadIdx.x % 32) * 4;
    const char* b = o_.b + static_cast<int64_t>(chunk.k) * kElement;
#pragma unroll
    for (int i = 0; i < columns; ++i) {
      if (chunk.k < o_.end && i < o_.columns) chunk.b[i] = ptx::load_streaming_16(b);
      b += o_.b_stride;
    }
    return chunk;
  }

  TILEWRIGHT_DEVICE void multiply(const Chunk& chunk) {
    const char* a = o_.a + static_cast<int64_t>(chunk.k) * kElement;
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      uint4 x = {0, 0, 0, 0};
      if (chunk.k < o_.end && row < o_.m) x = *reinterpret_cast<const uint4*>(a);
      a += o_.a_row;
#pragma unroll
      for (int i = 0; i < columns; ++i) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          sums_[row * columns + i] = fmaf(float_of(x, q), float_of(chunk.b[i], q), sums_[row * columns + i]);
        }
      }
    }
  }

  TILEWRIGHT_DEVICE void store(float* sums) {
    const int lane = threadIdx.x % 32;
    int count = rows * columns;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      count /= 2;
      const bool upper = (lane & step) != 0;
#pragma unroll
      for (int i = 0; i < rows * columns / 2; ++i) {
        if (i >= count) continue;
        const float kept = upper ? sums_[i + count] : sums_[i];
        const float given = upper ? sums_[i] : sums_[i + count];
        sums_[i] = kept + ptx::shuffle_xor(given, step);
      }
    }
    constexpr int kShare = rows * columns / 32;
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      const int at = lane * kShare + i;
      sums[at / columns * (kN + kSumsPad) + at % columns] = sums_[i];
    }
  }

 private:
  SkinnyOperands o_;
  float sums_[rows * columns] = {};
};

// fp32 in fp32 arithmetic, B along n: a lane has four neighbouring columns; A's elements are the same for all
// lanes.
template <int rows>
struct SkinnyFloatAlongN {
  static constexpr int kM = rows, kN = 128, kDepth = 4, kElement = 4;
  static constexpr bool kColumn = false;
  struct Chunk {
    uint4 b[kDepth];
    int k;
  };

  TILEWRIGHT_DEVICE explicit SkinnyFloatAlongN(const SkinnyOperands& o) : o_(o) {
    const int column = static_cast<int>(threadIdx.x % 32) * 4;
    exists_ = column < o.columns;
    o_.b += column * kElement;
  }

  TILEWRIGHT_DEVICE Chunk load(int from) const {
    Chunk chunk = {};
    chunk.k = from;
    const char* b = o_.b + from * o_.b_stride;
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      if (exists_ && from + i < o_.end) chunk.b[i] = ptx::load_streaming_16(b);
      b += o_.b_stride;
    }
    return chunk;
  }

  TILEWRIGHT_DEVICE void multiply(const Chunk& chunk) {
    const char* a = o_.a + static_cast<int64_t>(chunk.k) * kElement;
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      uint4 x = {0, 0, 0, 0};
      if (chunk.k < o_.end && row < o_.m) x = *reinterpret_cast<const uint4*>(a);
      a += o_.a_row;
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          sums_[row][q] = fmaf(float_of(x, i), float_of(chunk.b[i], q), sums_[row][q]);
        }
      }
    }
  }

  TILEWRIGHT_DEVICE void store(float* sums) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      *reinterpret_cast<float4*>(sums + row * (kN + kSumsPad) + lane * 4) =
          make_float4(sums_[row][0], sums_[row][1], sums_[row][2], sums_[row][3]);
    }
  }

 private:
  SkinnyOperands o_;
  bool exists_;
  float sums_[rows][4] = {};
};

}  // namespace tilewright::cuda
