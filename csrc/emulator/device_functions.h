// Device functions that the CUDA headers declare for nvcc only.
#pragma once

#include <bit>

TILEWRIGHT_DEVICE unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
TILEWRIGHT_DEVICE int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
TILEWRIGHT_DEVICE float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
TILEWRIGHT_DEVICE float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
TILEWRIGHT_DEVICE int __popc(unsigned x) {
  return __builtin_popcount(x);
}
TILEWRIGHT_DEVICE int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
TILEWRIGHT_DEVICE int __ffs(int x) {
  return __builtin_ffs(x);
}
TILEWRIGHT_DEVICE unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
TILEWRIGHT_DEVICE float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
TILEWRIGHT_DEVICE float __fdividef(float a, float b) {
  return a / b;
}
TILEWRIGHT_DEVICE float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
TILEWRIGHT_DEVICE float __frcp_rn(float x) {
  return 1.0f / x;
}

// Bytes of {b, a} that the four low nibbles of `selector` choose; a nibble's high bit asks for the sign.
TILEWRIGHT_DEVICE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned chosen = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 15;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (nibble & 7))) & 255;
    if ((nibble & 8) != 0) byte = (byte & 128) != 0 ? 255 : 0;
    chosen |= byte << (8 * i);
  }
  return chosen;
}

template <class T>
TILEWRIGHT_DEVICE T __ldg(const T* p) {
  return *p;
}

namespace tilewright::emulator {

// Read, modify, write; they order nothing. Return what was there.
float atomic_add(float* to, float value);
int atomic_add(int* to, int value);
unsigned atomic_add(unsigned* to, unsigned value);
void threadfence();
[[noreturn]] void trap();

}  // namespace tilewright::emulator

TILEWRIGHT_DEVICE float atomicAdd(float* to, float value) {
  return ::tilewright::emulator::atomic_add(to, value);
}
TILEWRIGHT_DEVICE int atomicAdd(int* to, int value) {
  return ::tilewright::emulator::atomic_add(to, value);
}
TILEWRIGHT_DEVICE unsigned atomicAdd(unsigned* to, unsigned value) {
  return ::tilewright::emulator::atomic_add(to, value);
}
TILEWRIGHT_DEVICE void __threadfence() {
  ::tilewright::emulator::threadfence();
}
TILEWRIGHT_DEVICE void __trap() {
  ::tilewright::emulator::trap();
}
