// Fills shared memory with a tile of the implicit matrix: rows are pixels of y, columns are terms k of the
// sum, and an element is what the pixel's window shows at the tap and channel of k, or zero outside of the
// image.
//
//     k of the tile ->   r,s,c  r,s,c+8 ..          a row's record, found once (GatherRow): where its window
//     pixel n,p,q     [ 16 B  | 16 B  | ..          begins, as an offset and as (row, column) of the image;
//     pixel n,p,q+1   [ 16 B  | 16 B  | ..          a column's walk (TapWalk): how far its tap is from there
//
// An address is the sum of both offsets, and it is inside of the image where both sums of coordinates are:
// two comparisons, which cost what shifting two bit masks of the window does and know no limit on its size.
// The records lie in shared memory, since registers are what large tiles are short of.
#pragma once

#include "conv2d/cuda/taps.cuh"
#include "cuda/mainloop.cuh"

namespace tilewright::cuda::conv {

struct GatherRow {
  int64_t offset;   // of the pixel under tap (0, 0), which may lie outside
  int down, right;  // its row and column
};

// As it lies in shared memory, so that it is read at once.
TILEWRIGHT_DEVICE uint4 packed(const GatherRow& row) {
  const uint64_t offset = static_cast<uint64_t>(row.offset);
  return make_uint4(static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32),
                    static_cast<uint32_t>(row.down), static_cast<uint32_t>(row.right));
}

TILEWRIGHT_DEVICE GatherRow unpacked(const uint4& bits) {
  return {static_cast<int64_t>(static_cast<uint64_t>(bits.y) << 32 | bits.x), static_cast<int>(bits.z),
          static_cast<int>(bits.w)};
}

inline constexpr int kNoSuchRow = -(1 << 30);  // no tap leads back into the image

struct GatherImage {
  int64_t x_n;
  int height, width;
  int stride_h, stride_w, top, left;
  uint32_t rows;  // pixels of y in the batch
  FastDivisor by_pixels, by_out_width;
  Taps taps;
  TapStep tile, element;  // block_k terms further on, and one
};

// The record of every row of a tile; the caller synchronises.
template <int block_m, int threads>
TILEWRIGHT_DEVICE void find_rows(const GatherImage& image, uint4* rows, uint32_t first) {
  for (int i = static_cast<int>(threadIdx.x); i < block_m; i += threads) {
    const uint32_t row = first + i;
    GatherRow found{0, kNoSuchRow, kNoSuchRow};
    if (row < image.rows) {
      const uint32_t n = image.by_pixels.divide(row), pixel = image.by_pixels.remainder(row, n);
      const uint32_t p = image.by_out_width.divide(pixel), q = image.by_out_width.remainder(pixel, p);
      found.down = static_cast<int>(p) * image.stride_h - image.top;
      found.right = static_cast<int>(q) * image.stride_w - image.left;
      found.offset = n * image.x_n + found.down * image.taps.x_h + found.right * image.taps.x_w;
    }
    rows[i] = packed(found);
  }
}

TILEWRIGHT_DEVICE bool inside(const GatherImage& image, const GatherRow& row, const TapWalk& walk) {
  return static_cast<uint32_t>(row.down + walk.down) < static_cast<uint32_t>(image.height) &&
         static_cast<uint32_t>(row.right + walk.right) < static_cast<uint32_t>(image.width);
}

// Asynchronous copies of `bytes` (8 or 16), for x with neighbouring channels side by side. Threads that
// follow each other copy neighbouring channels of a pixel; each keeps to its column, and so to one walk. A
// copier of the main loop (cuda/tile_copy.cuh), as is the next.
template <class T, int bytes, class Shape>
class GatherVectors {
  using Tile = typename Shape::ATile;
  static constexpr int kPerRow = Tile::kRowBytes / bytes;
  static constexpr int kRowStep = Shape::kThreads / kPerRow;
  static_assert(Shape::kThreads % kPerRow == 0 && Tile::kRows % kRowStep == 0);

 public:
  TILEWRIGHT_DEVICE GatherVectors(const GatherImage& image, const T* x, const uint4* rows, int first_k)
      : image_(image), x_(x) {
    const int thread = static_cast<int>(threadIdx.x), column = thread % kPerRow;
    row_ = thread / kPerRow;
    byte_ = column * bytes;
    rows_ = rows + row_;
    k_ = first_k + column * (bytes / static_cast<int>(sizeof(T)));
    walk_.begin(image.taps, k_);
  }

  TILEWRIGHT_DEVICE void issue(unsigned char* tile) {
    const bool summed = k_ < image_.taps.terms;
#pragma unroll
    for (int i = 0; i < Tile::kRows / kRowStep; ++i) {
      const GatherRow row = unpacked(rows_[i * kRowStep]);
      const bool read = summed && inside(image_, row, walk_);
      ptx::cp_async<bytes>(tile + Tile::offset(row_ + i * kRowStep, byte_),
                           x_ + (read ? row.offset + walk_.offset : 0), read ? bytes : 0);
    }
    k_ += Shape::kK;
    walk_.advance(image_.taps, image_.tile);
  }

  TILEWRIGHT_DEVICE void finish(unsigned char*) {}

 private:
  const GatherImage& image_;
  const T* x_;
  const uint4* rows_;
  int row_, byte_, k_;
  TapWalk walk_;
};

// Element by element, for any strides and any number of channels. The lanes of a warp read neighbouring
// pixels, which is how NCHW lies; each lane puts the terms of 16 bytes of its row together and stores them at
// once, so that no two lanes meet in a bank. Every warp keeps to its columns.
template <class T, class Shape>
class GatherElements {
  using Tile = typename Shape::ATile;
  using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
  static constexpr int kPerVector = 16 / static_cast<int>(sizeof(T)), kWarps = Shape::kThreads / 32;
  static constexpr int kColumns = Tile::kRowBytes / 16, kRowGroups = Tile::kRows / 32;
  static constexpr int kOwnColumns = kColumns > kWarps ? kColumns / kWarps : 1;
  static constexpr int kSharers = kWarps > kColumns ? kWarps / kColumns : 1;  // warps of a column
  static constexpr int kOwnGroups = kRowGroups / kSharers;
  static_assert(kOwnColumns * kWarps == kColumns * kSharers && kOwnGroups * kSharers == kRowGroups);

 public:
  TILEWRIGHT_DEVICE GatherElements(const GatherImage& image, const T* x, const uint4* rows, int first_k)
      : image_(image), x_(reinterpret_cast<const Bits*>(x)) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    column_ = warp / kSharers * kOwnColumns;
    row_ = warp % kSharers * kOwnGroups * 32 + static_cast<int>(threadIdx.x) % 32;
    rows_ = rows + row_;
    k_ = first_k + column_ * kPerVector;
  }

  TILEWRIGHT_DEVICE void issue(unsigned char*) {
#pragma unroll
    for (int column = 0; column < kOwnColumns; ++column) {
      const int k = k_ + column * kPerVector;
      TapWalk walk;
      walk.begin(image_.taps, k);
#pragma unroll
      for (int i = 0; i < kPerVector; ++i) {
        const bool summed = k + i < image_.taps.terms;
#pragma unroll
        for (int group = 0; group < kOwnGroups; ++group) {
          const GatherRow row = unpacked(rows_[group * 32]);
          const bool read = summed && inside(image_, row, walk);
          values_[column][group][i] = read ? x_[row.offset + walk.offset] : Bits{0};
        }
        walk.advance(image_.taps, image_.element);
      }
    }
    k_ += Shape::kK;
  }

  TILEWRIGHT_DEVICE void finish(unsigned char* tile) {
#pragma unroll
    for (int column = 0; column < kOwnColumns; ++column) {
#pragma unroll
      for (int group = 0; group < kOwnGroups; ++group) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Bits* const v = &values_[column][group][i * kPerVector / 4];
          w[i] = sizeof(T) == 4 ? v[0] : v[0] | static_cast<uint32_t>(v[kPerVector / 8]) << 16;
        }
        *reinterpret_cast<uint4*>(tile + Tile::offset(row_ + group * 32, (column_ + column) * 16)) =
            make_uint4(w[0], w[1], w[2], w[3]);
      }
    }
  }

 private:
  const GatherImage& image_;
  const Bits* x_;
  const uint4* rows_;
  int row_, column_, k_;
  // As they were loaded: packing them would wait for the loads.
  Bits values_[kOwnColumns][kOwnGroups][kPerVector];
};

}  // namespace tilewright::cuda::conv
