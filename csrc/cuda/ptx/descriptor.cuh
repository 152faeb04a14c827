// What wgmma is told of an operand in shared memory: 64 bits, plain arithmetic on both sides.
#pragma once

#include "cuda/platform.cuh"
#include "cuda/ptx/address.cuh"
#include "cuda/tensor_map.h"

namespace tilewright::ptx {

// Operands are made of atoms: 8 rows of span_of(swizzle) bytes, with the swizzle's exclusive-or, starting at
// a multiple of 8 spans (1024 bytes for b128).
//
//   K-major   (K contiguous): a row is one of M or N. `stride_bytes` from 8 rows to the next 8;
//   `leading_bytes`
//             is not read where the operand's K fits one span. The next k-step is 32 bytes further into the
//             row.
//   MN-major  (M or N contiguous): a row is one of K. `leading_bytes` from one span of M or N to the next;
//             `stride_bytes` from 8 of K to the next 8.
//
//   bits 0-13 address / 16   16-29 leading / 16   32-45 stride / 16   62-63 swizzle (1: b128, 2: b64, 3: b32)
TILEWRIGHT_DEVICE uint64_t shared_descriptor(const void* shared, int leading_bytes, int stride_bytes,
                                             cuda::Swizzle swizzle) {
  const uint64_t layout = swizzle == cuda::Swizzle::none ? 0 : 4 - static_cast<uint64_t>(swizzle);
  return static_cast<uint64_t>((shared_address(shared) & 0x3ffff) >> 4) |
         static_cast<uint64_t>((leading_bytes & 0x3ffff) >> 4) << 16 |
         static_cast<uint64_t>((stride_bytes & 0x3ffff) >> 4) << 32 | layout << 62;
}

// The descriptor of the same operand `bytes` further on: a k-step, or the next rows.
TILEWRIGHT_DEVICE uint64_t advance_descriptor(uint64_t descriptor, int bytes) {
  return descriptor + static_cast<uint64_t>(bytes >> 4);
}

}  // namespace tilewright::ptx
