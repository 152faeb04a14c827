// Integer arithmetic of cutting work into parts, and memory into areas.
#pragma once

#include "cpu/simd.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

TW_INLINE int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

TW_INLINE int64_t max(int64_t a, int64_t b) {
  return a > b ? a : b;
}

TW_INLINE int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

TW_INLINE int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

constexpr int64_t kLine = 64;
// Between areas of scratch memory: they would otherwise start at the same set of L1.
constexpr int64_t kApart = 4 * kLine;

// Where part `index` of `parts` begins when `size` things are divided as evenly as whole things can be. No
// part is larger than ceil(size / parts).
TW_INLINE int64_t share(int64_t size, int64_t parts, int64_t index) {
  return size / parts * index + min(index, size % parts);
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
