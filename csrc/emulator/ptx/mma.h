// The emulator's side of cuda/ptx/mma.cuh. Fragments go and come by value: an array whose address leaves the
// kernel would have each of its accesses looked at.
#pragma once

#include <cstdint>

#include "emulator/platform.h"

namespace tilewright::emulator {

struct Words4 {
  uint32_t word[4];
};
struct Sums4 {
  float sum[4];
};
enum class Multiplicand : int { bf16, f16, tf32 };

// Matrix j of 8 rows of 16 bytes is at the rows that lanes 8j … 8j + 7 name.
Words4 load_matrices(const void* row, int matrices, bool transposed);
void store_matrices(void* row, Words4 words, int matrices, bool transposed);

Sums4 multiply(Multiplicand type, Sums4 d, Words4 a, uint32_t b0, uint32_t b1);

inline void multiply_into(Multiplicand type, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Sums4 sums = multiply(type, {{d[0], d[1], d[2], d[3]}}, {{a[0], a[1], a[2], a[3]}}, b[0], b[1]);
  d[0] = sums.sum[0];
  d[1] = sums.sum[1];
  d[2] = sums.sum[2];
  d[3] = sums.sum[3];
}

inline void load_into(uint32_t (&r)[4], const void* row, bool transposed) {
  const Words4 words = load_matrices(row, 4, transposed);
  r[0] = words.word[0];
  r[1] = words.word[1];
  r[2] = words.word[2];
  r[3] = words.word[3];
}

inline void load_into(uint32_t (&r)[2], const void* row, bool transposed) {
  const Words4 words = load_matrices(row, 2, transposed);
  r[0] = words.word[0];
  r[1] = words.word[1];
}

template <class T>
inline constexpr Multiplicand kMultiplicand = Multiplicand::bf16;
template <>
inline constexpr Multiplicand kMultiplicand<__half> = Multiplicand::f16;

}  // namespace tilewright::emulator

namespace tilewright::ptx {

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  emulator::load_into(r, row, false);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  emulator::load_into(r, row, true);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  emulator::load_into(r, row, false);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  emulator::load_into(r, row, true);
}
inline void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
  emulator::store_matrices(row, {{r[0], r[1], r[2], r[3]}}, 4, false);
}
inline void stmatrix_x4_trans(void* row, const uint32_t (&r)[4]) {
  emulator::store_matrices(row, {{r[0], r[1], r[2], r[3]}}, 4, true);
}

template <class T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(sizeof(T) == 2);
  emulator::multiply_into(emulator::kMultiplicand<T>, d, a, b);
}

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::multiply_into(emulator::Multiplicand::tf32, d, a, b);
}

// The nearest tf32, ties away from zero, as cvt.rna has it; NaN stays NaN.
inline uint32_t to_tf32(float value) {
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7f800000u) == 0x7f800000u) return value != value ? 0x7fffe000u : bits;
  return (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace tilewright::ptx
