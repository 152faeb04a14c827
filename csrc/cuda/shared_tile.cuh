// A tile of an operand in shared memory, swizzled so that neither the copies' stores nor the fragments' loads
// meet in a bank.
#pragma once

#include "cuda/platform.cuh"

namespace tilewright::cuda {

// Which dimension of an operand neighbours in memory: k, or the one that it shares with the output (m or n).
enum class Major { k, mn };

// A tile is `rows` rows of `row_bytes`, a power of two. Its 16-byte chunks are permuted within their rows:
// chunk c of row r lies at c ^ f(r). Shared memory has 32 banks of 4 bytes, so eight chunks in places that
// differ modulo 8 are moved at once. `ldmatrix` takes the same chunk of eight rows that follow one another:
//
//     row_bytes >= 128: f(r) = r % 8           row_bytes = 64: f(r) = r / 2 % 4, two rows fill the banks
//
//        chunk 0 1 2 3 4 5 6 7                    chunk 0 1 2 3
//     r=0      0 1 2 3 4 5 6 7                 r=0      0 1 2 3   r=1  0 1 2 3
//     r=1      1 0 3 2 5 4 7 6                 r=2      1 0 3 2   r=3  1 0 3 2
//     r=2      2 3 0 1 6 7 4 5                 r=4      2 3 0 1   r=5  2 3 0 1
//     ...                                      ...
//
// 32-bit elements whose rows are k cannot be transposed by ldmatrix. There lane 4g + t loads the element at
// row t, column g: eight neighbours, two chunks, of four rows, which f(r) = 2 · (r % 4) sets apart
// (`pairs_of_chunks`).
template <int rows, int row_bytes, bool pairs_of_chunks = false>
struct SharedTile {
  static_assert((row_bytes & (row_bytes - 1)) == 0 && row_bytes >= (pairs_of_chunks ? 128 : 32));
  static constexpr int kRows = rows, kRowBytes = row_bytes, kBytes = rows * row_bytes;
  // Rows that are this many apart are permuted alike.
  static constexpr int kPeriod = pairs_of_chunks ? 4 : 8;

  // Of the byte `byte` of row `row`.
  static TILEWRIGHT_DEVICE int offset(int row, int byte) {
    int flip = 0;
    if constexpr (pairs_of_chunks) {
      flip = (row & 3) << 1;
    } else if constexpr (row_bytes >= 128) {
      flip = row & 7;
    } else if constexpr (row_bytes == 64) {
      flip = row >> 1 & 3;
    } else {
      flip = row >> 2 & 1;
    }
    return row * row_bytes + (byte ^ flip << 4);
  }
};

}  // namespace tilewright::cuda
