// The tiled kernel's instances for 16-bit operands, the same for bf16 and fp16.
#pragma once

#include <array>

#include "matmul/cuda/tiled.cuh"

namespace tilewright::cuda::tiled {

// Tile, warps and stages. A warp has at most 64 x 64 sums, 128 registers of a thread: fewer would fetch more
// fragments per product. Shared memory stays at 96 KB, which every GPU of the family gives one block, but for
// WideDeep, which only sm_80 and sm_90 can hold; tiles of four warps leave room for a second block on those.
template <class T, Major a, Major b>
struct Shapes {
  using Wide = BlockShape<T, 128, 256, 32, 2, 4, 4, a, b>;
  using Tall = BlockShape<T, 256, 128, 32, 4, 2, 4, a, b>;
  using WideDeep = BlockShape<T, 128, 256, 64, 2, 4, 3, a, b>;
  using Square = BlockShape<T, 128, 128, 32, 2, 2, 4, a, b>;
  using SquareDeep = BlockShape<T, 128, 128, 64, 2, 2, 3, a, b>;
  using Half = BlockShape<T, 64, 128, 64, 2, 2, 3, a, b>;
  using Small = BlockShape<T, 64, 64, 64, 2, 2, 5, a, b>;
  using Low = BlockShape<T, 32, 128, 64, 1, 4, 4, a, b>;
  using Narrow = BlockShape<T, 64, 64, 32, 2, 2, 4, a, b>;  // for copies of less than 16 bytes
};

template <class T, DataType dtype>
constexpr auto k16BitInstances = []() {
  constexpr Major k = Major::k, mn = Major::mn;
  constexpr CopyWidth w = CopyWidth::bytes16, w4 = CopyWidth::bytes4, one = CopyWidth::element;
  // A's layout, B's layout. (k, k) is a linear layer's weight, (k, mn) its input's gradient, (mn, mn) its
  // weight's gradient.
  return std::to_array<MatmulInstance>({
      tiled_instance<typename Shapes<T, k, k>::Wide, w>(dtype),
      tiled_instance<typename Shapes<T, k, k>::Tall, w>(dtype),
      tiled_instance<typename Shapes<T, k, k>::WideDeep, w>(dtype),
      tiled_instance<typename Shapes<T, k, k>::Square, w>(dtype),
      tiled_instance<typename Shapes<T, k, k>::SquareDeep, w>(dtype),
      tiled_instance<typename Shapes<T, k, k>::Half, w>(dtype),
      tiled_instance<typename Shapes<T, k, k>::Small, w>(dtype),
      tiled_instance<typename Shapes<T, k, k>::Low, w>(dtype),
      tiled_instance<typename Shapes<T, k, mn>::Wide, w>(dtype),
      tiled_instance<typename Shapes<T, k, mn>::Square, w>(dtype),
      tiled_instance<typename Shapes<T, k, mn>::Half, w>(dtype),
      tiled_instance<typename Shapes<T, k, mn>::Small, w>(dtype),
      tiled_instance<typename Shapes<T, k, mn>::Low, w>(dtype),
      tiled_instance<typename Shapes<T, mn, mn>::Wide, w>(dtype),
      tiled_instance<typename Shapes<T, mn, mn>::Square, w>(dtype),
      tiled_instance<typename Shapes<T, mn, mn>::Small, w>(dtype),
      tiled_instance<typename Shapes<T, mn, k>::Small, w>(dtype),
      tiled_instance<typename Shapes<T, k, k>::Narrow, w4>(dtype),
      tiled_instance<typename Shapes<T, k, mn>::Narrow, w4>(dtype),
      tiled_instance<typename Shapes<T, mn, mn>::Narrow, w4>(dtype),
      tiled_instance<typename Shapes<T, mn, k>::Narrow, w4>(dtype),
      tiled_instance<typename Shapes<T, k, k>::Narrow, one>(dtype),
      tiled_instance<typename Shapes<T, k, mn>::Narrow, one>(dtype),
      tiled_instance<typename Shapes<T, mn, mn>::Narrow, one>(dtype),
      tiled_instance<typename Shapes<T, mn, k>::Narrow, one>(dtype),
  });
}();

}  // namespace tilewright::cuda::tiled
