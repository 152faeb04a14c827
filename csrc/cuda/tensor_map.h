// Tensor maps: what the Tensor Memory Accelerator is told of a tensor in global memory before a kernel
// starts. Kernels take them by value, as `const __grid_constant__ TensorMap`.
//
// The functions check what the driver refuses and throw cuda::Error with a sentence. They come from
// cuda/tensor_map.cpp, or from the emulator, whose maps only the emulator understands.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/types.h"

namespace tilewright::cuda {

using TensorMap = CUtensorMap;  // 128 bytes

// How rows of 32, 64 or 128 bytes lie in shared memory: the 16-byte chunks of each 128-byte line are
// exchanged by an exclusive or of the address's bits from 4 on (1, 2 or 3 of them) with as many bits from 7
// on. So a column of chunks falls into different banks.
enum class Swizzle : int { none, b32, b64, b128 };

// Bytes of a row; a box's rows may not be longer. Without a swizzle wgmma's rows are single chunks.
constexpr int span_of(Swizzle swizzle) {
  return 16 << static_cast<int>(swizzle);
}

// A box of a dense tensor. Dimension 0 is the contiguous one; `stride_bytes[i]` is that of dimension i + 1.
// Elements outside the tensor are read as zero and not written.
TensorMap tiled_map(DataType type, int rank, const void* base, const uint64_t* sizes,
                    const uint64_t* stride_bytes, const uint32_t* box, Swizzle swizzle);

// `pixels_per_column` pixels of an NHWC tensor, `channels_per_pixel` channels of each, walked along W, then
// H, then N inside a bounding box: the top left corner that a filter tap's offset is added to. Sizes are C,
// W, H, N; `stride_bytes` those of W, H, N; corners and offsets are (w, h). Pixels outside the tensor are
// read as zero.
TensorMap im2col_map(DataType type, const void* base, const uint64_t* sizes, const uint64_t* stride_bytes,
                     const int* lower_corner, const int* upper_corner, uint32_t channels_per_pixel,
                     uint32_t pixels_per_column, const uint32_t* traversal_stride, Swizzle swizzle);

}  // namespace tilewright::cuda
