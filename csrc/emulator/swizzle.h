// The permutations of 16-byte chunks that TMA and wgmma apply to shared memory.
//
// A pattern of span S (32, 64 or 128 bytes) exchanges the chunks inside each aligned stretch of S bytes, by
// an exclusive or with the number of the 128-byte line, and repeats after 8 S bytes:
//
//     chunk bits      4 .. 4 + log2(S / 16) - 1
//     ^= line bits    7 .. 7 + log2(S / 16) - 1
//
// It is a function of the shared-memory *address*, not of the offset in a tile: a tile whose base is no
// multiple of 8 S bytes is laid out otherwise than the picture in a book says.
#pragma once

#include <cstdint>

#include "cuda/tensor_map.h"

namespace tilewright::emulator {

using cuda::Swizzle;

inline constexpr uint32_t kChunkBytes = 16;

// Bytes inside which chunks are exchanged; without a swizzle one chunk.
constexpr uint32_t swizzle_span(Swizzle swizzle) {
  return static_cast<uint32_t>(cuda::span_of(swizzle));
}

// Bytes after which the pattern repeats, which is the alignment a tile's base must have.
constexpr uint32_t swizzle_period(Swizzle swizzle) {
  return swizzle == Swizzle::none ? 128 : 8 * swizzle_span(swizzle);
}

// Where the byte lies that an unswizzled layout puts at `address`. Its own inverse.
constexpr uint32_t swizzled(uint32_t address, Swizzle swizzle) {
  const uint32_t chunks = swizzle_span(swizzle) / kChunkBytes;
  return address ^ (((address >> 7) & (chunks - 1)) << 4);
}

}  // namespace tilewright::emulator
