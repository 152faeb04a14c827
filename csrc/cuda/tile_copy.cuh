// Copying an operand's tiles from global to shared memory, along k, one tile after the other.
//
// A copier has `issue(tile)`, which starts the copy of its next tile, and `finish(tile)`, which writes to
// shared memory what came through registers. The main loop calls both, commits and waits; a kernel with an
// operand that is not a matrix (an image) brings its own copier.
#pragma once

#include "cuda/platform.cuh"
#include "cuda/ptx.cuh"
#include "cuda/shared_tile.cuh"

namespace tilewright::cuda {

// A stretch of a matrix: `extent` rows of op(A) or columns of op(B) (mn), `depth` of k; strides in bytes.
struct Stretch {
  const char* first;
  int64_t mn_stride, k_stride;
  int extent;  // at least 1; beyond the tile it does not matter
  int depth;   // of all tiles together; what is missing of the last tile is filled with zeros
};

// How the threads share a tile: `width` bytes each, neighbours along the tile's rows, `kCount` times
// `kRowsAtOnce` rows apart.
template <class Tile, int threads, int width>
struct Share {
  static constexpr int kPerRow = Tile::kRowBytes / width;
  static_assert(threads % kPerRow == 0 && Tile::kRows * kPerRow % threads == 0);
  static constexpr int kRowsAtOnce = threads / kPerRow, kCount = Tile::kRows / kRowsAtOnce;
  static_assert(kCount <= 32);
};

// Asynchronous copies of 4, 8 or 16 bytes. Wider than an element they need neighbours (a stride of one
// element along the tile's rows) and sizes, strides and pointers that are multiples of the width, so that a
// copy is whole or not at all and its zero fill is a predicate. Copies of one element take any strides.
template <class Tile, Major major, int element, int threads, int width, int block_k>
class AsyncCopy {
  using Parts = Share<Tile, threads, width>;
  static constexpr int kElements = width / element;

 public:
  TILEWRIGHT_DEVICE explicit AsyncCopy(const Stretch& from) {
    const int thread = threadIdx.x;
    row_ = thread / Parts::kPerRow;
    const int column = thread % Parts::kPerRow * kElements;
    offset_ = Tile::offset(row_, thread % Parts::kPerRow * width);
    tile_step_ = block_k * from.k_stride;
    if constexpr (major == Major::k) {
      pointer_ = from.first + row_ * from.mn_stride + column * from.k_stride;
      row_step_ = Parts::kRowsAtOnce * from.mn_stride;
      left_ = from.depth - column;
      rows_ = from.extent - row_;
    } else {
      pointer_ = from.first + row_ * from.k_stride + column * from.mn_stride;
      row_step_ = Parts::kRowsAtOnce * from.k_stride;
      left_ = column < from.extent ? from.depth - row_ : 0;  // of a column that does not exist no row does
      rows_ = 0;
    }
  }

  TILEWRIGHT_DEVICE void issue(unsigned char* tile) {
    const char* from = pointer_;
    int rows = left_;
    if constexpr (major == Major::k) rows = left_ > 0 ? rows_ : 0;
#pragma unroll
    for (int i = 0; i < Parts::kCount; ++i) {
      ptx::cp_async<width>(tile + place(i), from, i * Parts::kRowsAtOnce < rows ? width : 0);
      from += row_step_;
    }
    pointer_ += tile_step_;
    left_ -= block_k;
  }

  TILEWRIGHT_DEVICE void finish(unsigned char*) {}

 private:
  // Of the i-th copy in the tile. Where the rows between are whole periods of the swizzle: a constant apart.
  TILEWRIGHT_DEVICE int place(int i) const {
    if constexpr (Parts::kRowsAtOnce % Tile::kPeriod == 0) {
      return offset_ + i * Parts::kRowsAtOnce * Tile::kRowBytes;
    } else {
      return Tile::offset(row_ + i * Parts::kRowsAtOnce,
                          static_cast<int>(threadIdx.x) % Parts::kPerRow * width);
    }
  }

  const char* pointer_;  // of this thread's first copy
  int64_t row_step_, tile_step_;
  int row_, offset_;
  int left_;  // of k, from this thread's first element on
  int rows_;  // of the tile, from this thread's first on, where k lies along them
};

// 16-bit elements with any strides, one load each, through registers: two that neighbour in the tile make a
// word. `issue` loads, `finish` stores a main loop's step later.
template <class Tile, Major major, int threads, int block_k>
class ElementCopy {
  static constexpr int kWord = 4;
  using Parts = Share<Tile, threads, kWord>;

 public:
  TILEWRIGHT_DEVICE explicit ElementCopy(const Stretch& from) {
    const int thread = threadIdx.x;
    row_ = thread / Parts::kPerRow;
    const int column = thread % Parts::kPerRow * 2;
    tile_step_ = block_k * from.k_stride;
    if constexpr (major == Major::k) {
      pointer_ = from.first + row_ * from.mn_stride + column * from.k_stride;
      row_step_ = Parts::kRowsAtOnce * from.mn_stride;
      neighbour_ = from.k_stride;
      left_ = from.depth - column;
      other_ = from.extent - row_;
    } else {
      pointer_ = from.first + row_ * from.k_stride + column * from.mn_stride;
      row_step_ = Parts::kRowsAtOnce * from.k_stride;
      neighbour_ = from.mn_stride;
      left_ = from.depth - row_;
      other_ = from.extent - column;
    }
  }

  TILEWRIGHT_DEVICE void issue(unsigned char*) {
    // How many rows of the tile the lower and the upper of the two elements have.
    const int along = major == Major::k ? left_ : other_, rows = major == Major::k ? other_ : left_;
    const int low_rows = along > 0 ? rows : 0, high_rows = along > 1 ? rows : 0;
    const char* from = pointer_;
#pragma unroll
    for (int i = 0; i < Parts::kCount; ++i) {
      low_[i] = high_[i] = 0;
      if (i * Parts::kRowsAtOnce < low_rows) low_[i] = *reinterpret_cast<const uint16_t*>(from);
      if (i * Parts::kRowsAtOnce < high_rows)
        high_[i] = *reinterpret_cast<const uint16_t*>(from + neighbour_);
      from += row_step_;
    }
    pointer_ += tile_step_;
    left_ -= block_k;
  }

  TILEWRIGHT_DEVICE void finish(unsigned char* tile) {
#pragma unroll
    for (int i = 0; i < Parts::kCount; ++i) {
      const int byte = static_cast<int>(threadIdx.x) % Parts::kPerRow * kWord;
      *reinterpret_cast<uint32_t*>(tile + Tile::offset(row_ + i * Parts::kRowsAtOnce, byte)) =
          low_[i] | high_[i] << 16;
    }
  }

 private:
  const char* pointer_;
  int64_t row_step_, tile_step_, neighbour_;
  int row_;
  int left_;                                           // of k, from this thread's first element on
  int other_;                                          // of m or n
  uint32_t low_[Parts::kCount], high_[Parts::kCount];  // put together in `finish`, lest `issue` wait for them
};

}  // namespace tilewright::cuda
