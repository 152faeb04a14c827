// One vocabulary of vector operations for every instruction set: GCC's vector extensions, and intrinsics
// where the extensions do not reach the instruction that is wanted.
//
// The including file is compiled once per ISA level. Everything is in the level's own namespace,
// standard-library functions are not used at all: an inline function compiled with AVX-512 would otherwise
// become the linker's copy for the portable callers of the same name, and die on older processors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/types.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef TILEWRIGHT_ISA_NAMESPACE
#error "compile through an ISA object library, which names the ISA"
#endif

#define TW_INLINE [[gnu::always_inline]] inline
#define TW_UNROLL _Pragma("GCC unroll 64")

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using vf = float __attribute__((vector_size(kLanes * 4)));
using vi = int32_t __attribute__((vector_size(kLanes * 4)));
using vu = uint32_t __attribute__((vector_size(kLanes * 4)));
using vh = uint16_t __attribute__((vector_size(kLanes * 2)));

// ---- plain vectors
// -------------------------------------------------------------------------------------------

TW_INLINE vf broadcast(float x) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(x);
#elif defined(__AVX2__)
  return _mm256_set1_ps(x);
#else
  return vf{x, x, x, x};
#endif
}

TW_INLINE vf zero() {
  return vf{};
}

TW_INLINE vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

TW_INLINE void store(float* p, vf v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// a·b + c; one rounding wherever the machine has an FMA, two on portable x86-64.
TW_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// a·b - p where p is the rounded product: the part that rounding lost.
TW_INLINE vf product_error(vf a, vf b, vf p) {
#if defined(__AVX2__) || defined(__aarch64__)
  return fma(a, b, -p);
#else
  // Dekker's product: 12-bit halves multiply without rounding.
  const vf split = broadcast(4097.0f);
  const vf ta = split * a, tb = split * b;
  const vf ah = ta - (ta - a), bh = tb - (tb - b);
  const vf al = a - ah, bl = b - bh;
  return ((ah * bh - p) + ah * bl + al * bh) + al * bl;
#endif
}

TW_INLINE vi bits(vf v) {
  return (vi)v;
}

TW_INLINE vf select(vi mask, vf yes, vf no) {
  return mask ? yes : no;
}

TW_INLINE vf abs(vf v) {
  return (vf)((vi)v & 0x7fffffff);
}

// Halves are added until one lane is left: a fixed order, of logarithmic depth.
TW_INLINE float sum(vf v) {
#if defined(__AVX512F__)
  const auto eight = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const auto eight = v;
#endif
#if defined(__AVX2__)
  const auto four =
      __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#else
  const auto four = eight;
#endif
  const auto two = four + __builtin_shufflevector(four, four, 2, 3, 2, 3);
  return two[0] + two[1];
}

// ---- 16-bit formats, round to nearest even, NaN stays NaN
// ----------------------------------------------------

TW_INLINE vf widen(vh h, bf16) {
#if defined(__AVX512F__)
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif defined(__AVX2__)
  return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
  return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

TW_INLINE vf widen(vh h, f16) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps((__m256i)h);
#elif defined(__AVX2__)
  return _mm256_cvtph_ps((__m128i)h);
#else
  const vu wide = __builtin_convertvector(h, vu);
  const vi magnitude = (vi)((wide & 0x7fffu) << 13);
  const vi sign = (vi)((wide & 0x8000u) << 16);
  // Subnormals: give them the exponent of the smallest normal number, then take that number off again.
  const vi smallest = vi{} + (113 << 23);
  const vi subnormal = (vi)((vf)(magnitude + smallest) - (vf)smallest);
  const vi normal = magnitude + (112 << 23);
  const vi special = magnitude + (224 << 23);
  const vi value = magnitude >= (31 << 23) ? special : (magnitude < (1 << 23) ? subnormal : normal);
  return (vf)(value | sign);
#endif
}

TW_INLINE vh narrow(vf v, bf16) {
  const vu u = (vu)v;
  const vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const vu quiet = (u >> 16) | 0x40u;
  return __builtin_convertvector(v == v ? rounded : quiet, vh);
}

#if defined(__AVX512F__)
// bf16 that is rounded by the processor, in one instruction where the integer way takes nine. Subnormals
// count as zero, as in the products of such processors. For processors with AVX512-BF16 only.
struct bf16_by_unit : bf16 {};

TW_INLINE vh narrow(vf v, bf16_by_unit) {
  __m256i half;
  asm("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(v));  // see Bf16PairStep for why this is assembly
  return (vh)half;
}
#endif

TW_INLINE vh narrow(vf v, f16) {
#if defined(__AVX512F__)
  return (vh)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (vh)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const vi magnitude = (vi)v & 0x7fffffff;
  const vi sign = (vi)(((vu)v >> 16) & 0x8000u);
  // 2^-1 has an ulp of 2^-24, f16's smallest subnormal: the addition does the rounding.
  const vi half = vi{} + (126 << 23);
  const vi subnormal = (vi)((vf)magnitude + (vf)half) - half;
  const vi odd = (magnitude >> 13) & 1;
  const vi normal = (magnitude - (112 << 23) + 0xfff + odd) >> 13;
  const vi infinite = vi{} + 0x7c00;
  const vi nan = vi{} + 0x7e00;
  vi value = magnitude < (113 << 23) ? subnormal : normal;
  value = magnitude >= (143 << 23) ? infinite : value;
  value = magnitude > (255 << 23) ? nan : value;
  return __builtin_convertvector((vu)(value | sign), vh);
#endif
}

TW_INLINE vf load(const bf16* p) {
  vh h;
  __builtin_memcpy(&h, p, sizeof h);
  return widen(h, bf16{});
}

TW_INLINE vf load(const f16* p) {
  vh h;
  __builtin_memcpy(&h, p, sizeof h);
  return widen(h, f16{});
}

template <class Half>
TW_INLINE void store(Half* p, vf v) {
  const vh h = narrow(v, Half{});
  __builtin_memcpy(p, &h, sizeof h);
}

// Two vectors side by side.
template <class T>
TW_INLINE void store_pair(T* p, vf low, vf high) {
  store(p, low);
  store(p + kLanes, high);
}

#if defined(__AVX512F__)
// A whole cache line in one store: half lines, each of which has to fetch its line, took twice as long where
// the line was not in the cache (2 MB of results, Zen 5).
TW_INLINE void store_pair(bf16_by_unit* p, vf low, vf high) {
  __m512i both;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(low), "v"(high));
  _mm512_storeu_si512(p, both);
}
#endif

// ---- parts of vectors: lanes from `count` on are zero when loaded, untouched when stored
// ---------------------

TW_INLINE vf load_part(const float* p, int count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1u), p);
#else
  float lane[kLanes] = {};
  for (int i = 0; i < count; ++i) lane[i] = p[i];
  return load(lane);
#endif
}

template <class Half>
TW_INLINE vf load_part(const Half* p, int count) {
#if defined(__AVX512F__)
  return widen((vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1u), p), Half{});
#else
  Half lane[kLanes] = {};
  for (int i = 0; i < count; ++i) lane[i] = p[i];
  return load(lane);
#endif
}

TW_INLINE void store_part(float* p, vf v, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1u), v);
#else
  float lane[kLanes];
  store(lane, v);
  for (int i = 0; i < count; ++i) p[i] = lane[i];
#endif
}

template <class Half>
TW_INLINE void store_part(Half* p, vf v, int count) {
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << count) - 1u), (__m256i)narrow(v, Half{}));
#else
  Half lane[kLanes];
  store(lane, v);
  for (int i = 0; i < count; ++i) p[i] = lane[i];
#endif
}

template <class T>
TW_INLINE vf load_upto(const T* p, int count) {
  return count >= kLanes ? load(p) : load_part(p, count);
}

template <class T>
TW_INLINE void store_upto(T* p, vf v, int count) {
  if (count >= kLanes) {
    store(p, v);
  } else {
    store_part(p, v, count);
  }
}

// Elements `stride` apart.
template <class T>
TW_INLINE vf load_strided(const T* p, int64_t stride, int count) {
  T lane[kLanes] = {};
  const int used = count < kLanes ? count : kLanes;
  for (int i = 0; i < used; ++i) lane[i] = p[i * stride];
  return load(lane);
}

// Lane i is p[index[i]], where every index is less than kLanes; p[0 … kLanes - 1] may be read.
template <class T>
TW_INLINE vf load_permuted(const T* p, vi index) {
#if defined(__AVX512F__)
  return _mm512_permutexvar_ps((__m512i)index, load(p));
#elif defined(__AVX2__)
  return _mm256_permutevar8x32_ps(load(p), (__m256i)index);
#elif defined(__aarch64__)
  return __builtin_shuffle(load(p), index);
#else
  const T lane[kLanes] = {p[index[0]], p[index[1]], p[index[2]], p[index[3]]};
  return load(lane);
#endif
}

// ---- transposition
// -------------------------------------------------------------------------------------------

#if defined(__AVX512F__)
TW_INLINE vf interleave_low(vf a, vf b) {
  return __builtin_shuffle(a, b, vi{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
}
TW_INLINE vf interleave_high(vf a, vf b) {
  return __builtin_shuffle(a, b, vi{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
}
#elif defined(__AVX2__)
TW_INLINE vf interleave_low(vf a, vf b) {
  return __builtin_shuffle(a, b, vi{0, 8, 1, 9, 2, 10, 3, 11});
}
TW_INLINE vf interleave_high(vf a, vf b) {
  return __builtin_shuffle(a, b, vi{4, 12, 5, 13, 6, 14, 7, 15});
}
#else
TW_INLINE vf interleave_low(vf a, vf b) {
  return __builtin_shuffle(a, b, vi{0, 4, 1, 5});
}
TW_INLINE vf interleave_high(vf a, vf b) {
  return __builtin_shuffle(a, b, vi{2, 6, 3, 7});
}
#endif

// rows[i][j] becomes rows[j][i]: log2(kLanes) rounds in which row i meets row i + kLanes/2.
TW_INLINE void transpose(vf (&rows)[kLanes]) {
  TW_UNROLL for (int round = 1; round < kLanes; round *= 2) {
    vf next[kLanes];
    TW_UNROLL for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + kLanes / 2]);
    }
    TW_UNROLL for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
