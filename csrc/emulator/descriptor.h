// The 64-bit shared-memory matrix descriptor of wgmma, and where it says that an operand's elements lie.
//
//     bits  0-13   start address / 16
//     bits 16-29   leading byte offset / 16
//     bits 32-45   stride byte offset / 16
//     bits 49-51   base offset: nonzero where the swizzle pattern does not start at a multiple of its period
//     bits 62-63   0 no swizzle, 1 128 bytes, 2 64 bytes, 3 32 bytes
//
// Let S be the swizzle span, m the row of A or the column of B, and k the position in the sum, and T = 16 /
// (bytes of an element). The bytes lie at start + offset, then swizzled as an address:
//
//     K-major   none   (m / 8) stride + (m % 8) 16 + (k / T) leading + (k % T) bytes
//               S      (m / 8) stride + (m % 8) S + k bytes                              leading is ignored
//     MN-major  none   (m / T) stride + (m % T) bytes + (k / 8) leading + (k % 8) 16
//               S      (m / M) leading + (m % M) bytes + (k / 8) stride + (k % 8) S      M = S / bytes
//
// One wgmma takes 32 bytes of k; the next ones start 32 bytes further inside the span (K-major), or two
// groups of eight k further (MN-major).
#pragma once

#include <cstdint>

#include "emulator/swizzle.h"

namespace tilewright::emulator {

struct MatrixDescriptor {
  uint32_t start;  // bytes, as are the offsets
  uint32_t leading;
  uint32_t stride;
  uint32_t base_offset;
  Swizzle swizzle;
};

constexpr MatrixDescriptor decode_descriptor(uint64_t bits) {
  constexpr Swizzle kinds[] = {Swizzle::none, Swizzle::b128, Swizzle::b64, Swizzle::b32};
  return {static_cast<uint32_t>(bits & 0x3fff) << 4, static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4,
          static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4, static_cast<uint32_t>(bits >> 49 & 7),
          kinds[bits >> 62]};
}

constexpr uint64_t encode_descriptor(const MatrixDescriptor& d) {
  constexpr uint64_t codes[] = {0, 3, 2, 1};
  return (static_cast<uint64_t>(d.start & 0x3ffff) >> 4) |
         (static_cast<uint64_t>(d.leading & 0x3ffff) >> 4) << 16 |
         (static_cast<uint64_t>(d.stride & 0x3ffff) >> 4) << 32 | static_cast<uint64_t>(d.base_offset) << 49 |
         codes[static_cast<int>(d.swizzle)] << 62;
}

// The address of element (m, k), whose size is `bytes`.
constexpr uint32_t operand_address(const MatrixDescriptor& d, bool mn_major, uint32_t m, uint32_t k,
                                   uint32_t bytes) {
  const uint32_t per_chunk = kChunkBytes / bytes;
  const uint32_t span = swizzle_span(d.swizzle);
  uint32_t offset = 0;
  if (!mn_major) {
    offset = m / 8 * d.stride + m % 8 * span;
    offset += d.swizzle == Swizzle::none ? k / per_chunk * d.leading + k % per_chunk * bytes : k * bytes;
  } else if (d.swizzle == Swizzle::none) {
    offset = m / per_chunk * d.stride + m % per_chunk * bytes + k / 8 * d.leading + k % 8 * kChunkBytes;
  } else {
    const uint32_t wide = span / bytes;
    offset = m / wide * d.leading + m % wide * bytes + k / 8 * d.stride + k % 8 * span;
  }
  return swizzled(d.start + offset, d.swizzle);
}

// Where thread `thread` of a warpgroup holds, as its value number `index`, an element of the 64 x N
// accumulator.
struct AccumulatorPlace {
  int row, column;
};

constexpr AccumulatorPlace accumulator_place(int thread, int index) {
  return {thread / 32 * 16 + index / 2 % 2 * 8 + thread % 32 / 4, index / 4 * 8 + thread % 4 * 2 + index % 2};
}

}  // namespace tilewright::emulator
