// How a warp of the skinny kernel multiplies a strip of fp32 weight in fp32 arithmetic. Readers as in
// skinny_readers.cuh.
#pragma once

#include <cmath>

#include "matmul/cuda/skinny_readers.cuh"

namespace tilewright::cuda {

TILEWRIGHT_DEVICE float float_of(const uint4& v, int i) {
  const uint32_t bits = word_of(v, i);
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

// What both readers know: A's elements are loaded as they are multiplied, for lanes and warps beside one
// another ask for the same.
template <int rows>
class SkinnyFloat {
 public:
  TILEWRIGHT_DEVICE SkinnyFloat(const SkinnyOperands& o, int k)
      : a_(o.a + static_cast<int64_t>(k) * 4), a_row_(o.a_row), m_(o.m), left_(o.end - k), step_(o.step) {}

  // Calls use(row, four elements of it) for every row that exists.
  template <class Use>
  TILEWRIGHT_DEVICE void each_row(bool exists, Use use) {
    const char* a = a_;
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      if (row < m_) {
        uint4 x = {0, 0, 0, 0};
        if (exists) x = *reinterpret_cast<const uint4*>(a);
        use(row, x);
      }
      a += a_row_;
    }
    a_ += step_ * 4;
  }

 protected:
  const char* a_;  // where `multiply` is; `load` is ahead
  int64_t a_row_;
  int m_, left_, step_;
};

// B along k: lanes divide k, four elements each, and the warp has `columns` columns. The lanes' sums are
// added by a butterfly that halves their number at every step: a lane ends up with 1/32 of them, whole.
template <int rows, int columns>
class SkinnyFloatAlongK : public SkinnyFloat<rows> {
  using Base = SkinnyFloat<rows>;
  static_assert(rows * columns % 32 == 0);

 public:
  static constexpr int kM = rows, kN = columns, kDepth = 128, kElement = 4;
  static constexpr bool kColumn = true;
  struct Chunk {
    uint4 b[columns];
    bool exists;
  };

  TILEWRIGHT_DEVICE explicit SkinnyFloatAlongK(const SkinnyOperands& o)
      : Base(o, o.k + static_cast<int>(threadIdx.x % 32) * 4) {
    b_ = o.b + o.column * o.b_stride + static_cast<int64_t>(o.k + static_cast<int>(threadIdx.x % 32) * 4) * 4;
    b_stride_ = o.b_stride;
    columns_ = o.columns - o.column;
  }

  TILEWRIGHT_DEVICE Chunk load() {
    Chunk chunk;
    chunk.exists = this->left_ > 0;
    const int existing = chunk.exists ? columns_ : 0;
    const char* b = b_;
#pragma unroll
    for (int i = 0; i < columns; ++i) {
      chunk.b[i] = uint4{0, 0, 0, 0};
      if (i < existing) chunk.b[i] = ptx::load_streaming_16(b);
      b += b_stride_;
    }
    b_ += this->step_ * 4;
    this->left_ -= this->step_;
    return chunk;
  }

  TILEWRIGHT_DEVICE void multiply(const Chunk& chunk) {
    this->each_row(chunk.exists, [&](int row, const uint4& x) {
#pragma unroll
      for (int i = 0; i < columns; ++i) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          float& sum = sums_[row * columns + i];
          sum = fmaf(float_of(x, q), float_of(chunk.b[i], q), sum);
        }
      }
    });
  }

  TILEWRIGHT_DEVICE void store(float* sums, int stride) {
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
      sums[at / columns * stride + at % columns] = sums_[i];
    }
  }

 private:
  const char* b_;
  int64_t b_stride_;
  int columns_;
  float sums_[rows * columns] = {};
};

// B along n: a lane has four neighbouring columns; A's elements are the same for all lanes.
template <int rows>
class SkinnyFloatAlongN : public SkinnyFloat<rows> {
  using Base = SkinnyFloat<rows>;

 public:
  static constexpr int kM = rows, kN = 128, kDepth = 4, kElement = 4;
  static constexpr bool kColumn = false;
  struct Chunk {
    uint4 b[kDepth];
    bool exists;
  };

  TILEWRIGHT_DEVICE explicit SkinnyFloatAlongN(const SkinnyOperands& o) : Base(o, o.k) {
    const int column = smaller(o.column + static_cast<int>(threadIdx.x % 32) * 4, o.columns - 4);
    b_ = o.b + o.k * o.b_stride + column * kElement;
    b_row_ = o.b_stride;
    b_step_ = o.step * o.b_stride;
  }

  TILEWRIGHT_DEVICE Chunk load() {
    Chunk chunk;
    chunk.exists = this->left_ > 0;
    const char* b = b_;
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      chunk.b[i] = uint4{0, 0, 0, 0};
      if (i < this->left_) chunk.b[i] = ptx::load_streaming_16(b);
      b += b_row_;
    }
    b_ += b_step_;
    this->left_ -= this->step_;
    return chunk;
  }

  TILEWRIGHT_DEVICE void multiply(const Chunk& chunk) {
    this->each_row(chunk.exists, [&](int row, const uint4& x) {
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          sums_[row][q] = fmaf(float_of(x, i), float_of(chunk.b[i], q), sums_[row][q]);
        }
      }
    });
  }

  TILEWRIGHT_DEVICE void store(float* sums, int stride) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      *reinterpret_cast<float4*>(sums + row * stride + lane * 4) =
          make_float4(sums_[row][0], sums_[row][1], sums_[row][2], sums_[row][3]);
    }
  }

 private:
  const char* b_;
  int64_t b_row_, b_step_;
  float sums_[rows][4] = {};
};

}  // namespace tilewright::cuda
