// Matrix fragments of a warp: loading them from shared memory, multiplying them. Lane l holds, with g = l / 4
// and t = l % 4 and 16-bit elements in pairs (the lower column in the lower half):
//
//   A 16 x 16  a[0] (g, 2t) (g, 2t+1)   a[1] (g+8, ..)   a[2] (g, 2t+8) ..   a[3] (g+8, 2t+8) ..
//   B 16 x 8   b[0] (2t, g) (2t+1, g)   b[1] (2t+8, g) ..
//   D 16 x 8   d[0] (g, 2t)  d[1] (g, 2t+1)  d[2] (g+8, 2t)  d[3] (g+8, 2t+1)
//
// tf32, one element a register: A 16 x 8 a[0] (g, t) a[1] (g+8, t) a[2] (g, t+4) a[3] (g+8, t+4);
// B 8 x 8 b[0] (t, g) b[1] (t+4, g). In bytes these are the 16-bit fragments: the same ldmatrix loads both.
#pragma once

#include "cuda/platform.cuh"

#if TILEWRIGHT_EMULATED

#include "emulator/ptx/mma.h"

#else

#include "cuda/ptx/copy.cuh"

namespace tilewright::ptx {

// Loads matrices of 8 rows of 16 bytes: lanes 8i .. 8i+7 pass the addresses of matrix i's rows, and lane l
// gets in r[i] the four bytes 4t .. 4t+3 of row g. `_trans`: the elements (2t, g) and (2t+1, g) instead.
TILEWRIGHT_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

TILEWRIGHT_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

TILEWRIGHT_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

TILEWRIGHT_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

// The way back: lane l passes the address of row l % 8 of matrix l / 8, and holds in r[i] two elements of row
// l / 4 of matrix i. sm_90.
TILEWRIGHT_DEVICE void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// d += a·b, T one of __nv_bfloat16 and __half, sums in fp32.
template <class T>
TILEWRIGHT_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
TILEWRIGHT_DEVICE void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4],
                                                   const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
TILEWRIGHT_DEVICE void mma_m16n8k16<__half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same for tf32 operands, which `to_tf32` made.
TILEWRIGHT_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Rounded to the nearest, ties away from zero: unbiased, where the matrix unit by itself would truncate.
TILEWRIGHT_DEVICE uint32_t to_tf32(float x) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}

}  // namespace tilewright::ptx

#endif
