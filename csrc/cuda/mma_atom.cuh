// The multiplication that a warp does, per type of operand, and how its fragments come from shared tiles.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/platform.cuh"
#include "cuda/ptx.cuh"
#include "cuda/shared_tile.cuh"

namespace tilewright::cuda {

// d (16 x 8) += a (16 x kDepth) · b (kDepth x 8). kDepth elements are 32 bytes whatever the type.
template <class T>
struct Math {  // __nv_bfloat16 and __half
  using Element = T;
  static constexpr int kDepth = 16;

  static TILEWRIGHT_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_m16n8k16<T>(d, a, b);
  }
  static TILEWRIGHT_DEVICE uint32_t operand(uint32_t bits) {
    return bits;
  }
};

template <>
struct Math<Tf32> {
  using Element = float;
  static constexpr int kDepth = 8;

  static TILEWRIGHT_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_m16n8k8_tf32(d, a, b);
  }
  // Tiles hold fp32 as it came; every fragment is rounded once it is in registers.
  static TILEWRIGHT_DEVICE uint32_t operand(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return ptx::to_tf32(f);
  }
};

// The shared tile of an operand: `extent` of m or n by `depth` of k.
template <class Element, Major major, int extent, int depth>
using OperandTile =
    std::conditional_t<major == Major::k, SharedTile<extent, depth* static_cast<int>(sizeof(Element))>,
                       SharedTile<depth, extent* static_cast<int>(sizeof(Element)), sizeof(Element) == 4>>;

// Loads `count` fragments that follow one another along m or n: of A, 16 rows and four registers each; of B,
// eight columns and two registers each, a pair of them at a time. The lane's place is worked out once. What
// changes from one load to the next is an immediate offset, or bits of the swizzled chunk, which one XOR
// turns over: the chunk of a lane is p ^ q with p from the lane's row and q from step or fragment, whose set
// bits p's other part leaves clear.
template <class T, Major major, class Tile, bool is_a, int count>
class Fragments {
  static constexpr int kElement = sizeof(typename Math<T>::Element);
  static constexpr bool kTransposes = major == Major::mn && kElement == 2;
  static constexpr bool kSingly = major == Major::mn && kElement == 4;
  static constexpr int kWidth = is_a ? 16 : 8;  // of a fragment, along m or n
  static constexpr int kRegisters = is_a ? 4 : 2;

 public:
  // `first`: where the warp's fragments begin in the tile, a multiple of count · kWidth.
  TILEWRIGHT_DEVICE explicit Fragments(int first) {
    const int lane = threadIdx.x % 32;
    if constexpr (kSingly) {
      // Lane 4g + t begins at row t, column g.
      offset_ = Tile::offset(lane % 4, (first + lane / 4) * kElement);
    } else {
      // ldmatrix: lanes 8i .. 8i+7 name the rows of matrix i. In the order of the registers these are, of A,
      // (m, k), (m+8, k), (m, k+8), (m+8, k+8); of a pair of B, (n, k), (n, k+8), (n+8, k), (n+8, k+8).
      const int matrix = lane / 8;
      const int along_mn = (is_a ? matrix % 2 : matrix / 2) * 8;
      const int along_k = is_a ? matrix / 2 : matrix % 2;
      if constexpr (kTransposes) {
        offset_ = Tile::offset(along_k * 8 + lane % 8, (first + along_mn) * kElement);
      } else {
        offset_ = Tile::offset(first + along_mn + lane % 8, along_k * 16);
      }
    }
  }

  // Those of step `step` (kDepth of k each) of the tile at `tile`.
  TILEWRIGHT_DEVICE void load(uint32_t (&to)[count][kRegisters], const unsigned char* tile, int step) const {
    if constexpr (kSingly) {
#pragma unroll
      for (int i = 0; i < count; ++i) {
#pragma unroll
        for (int r = 0; r < kRegisters; ++r) {
          const int mn = i * kWidth + (is_a ? r % 2 * 8 : 0);
          const int k = step * 8 + (is_a ? r / 2 : r) * 4;
          to[i][r] =
              *reinterpret_cast<const uint32_t*>(tile + (offset_ ^ mn * kElement) + k * Tile::kRowBytes);
        }
      }
    } else {
      constexpr int kAtOnce = is_a ? 1 : 2;
      static_assert(count % kAtOnce == 0);
#pragma unroll
      for (int i = 0; i < count; i += kAtOnce) {
        uint32_t r[4];
        if constexpr (kTransposes) {
          ptx::ldmatrix_x4_trans(r, tile + (offset_ ^ i * kWidth * kElement) + step * 16 * Tile::kRowBytes);
        } else {
          ptx::ldmatrix_x4(r, tile + (offset_ ^ step * 32) + i * kWidth * Tile::kRowBytes);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) to[i + j / kRegisters][j % kRegisters] = r[j];
      }
    }
#pragma unroll
    for (int i = 0; i < count; ++i) {
#pragma unroll
      for (int r = 0; r < kRegisters; ++r) to[i][r] = Math<T>::operand(to[i][r]);
    }
  }

 private:
  int offset_;
};

}  // namespace tilewright::cuda
