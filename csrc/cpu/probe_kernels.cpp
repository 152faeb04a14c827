// The loops that the probes time, once per ISA level.
#include "cpu/probe.h"
#include "cpu/simd.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

namespace {

constexpr int kChains = 12;  // two FMA pipes with a latency of 4 or 5 cycles need ten; 16 registers hold 12

// Hides a value from the optimiser, so that it neither folds the loop nor moves it.
TW_INLINE void keep(vf& v) {
#if defined(__AVX2__)
  asm volatile("" : "+v"(v));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(v));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(v));
#else
  asm volatile("" : "+m"(v));
#endif
}

double multiply_f32(int64_t rounds) {
  vf chain[kChains];
  TW_UNROLL for (int i = 0; i < kChains; ++i) chain[i] = broadcast(static_cast<float>(i));
  vf factor = broadcast(0.999f), term = broadcast(0.001f);
  keep(factor);
  keep(term);
  for (int64_t round = 0; round < rounds; ++round) {
    TW_UNROLL for (int i = 0; i < kChains; ++i) chain[i] = fma(chain[i], factor, term);
  }
  TW_UNROLL for (int i = 0; i < kChains; ++i) keep(chain[i]);
  return 2.0 * kLanes * kChains * static_cast<double>(rounds);
}

#if defined(__AVX512F__)
[[gnu::target("avx512bf16")]] double multiply_bf16(int64_t rounds) {
  __m512 chain[kChains];
  // Unrolled like the loop below: one index that is not a constant would keep the whole array in memory.
  TW_UNROLL for (int i = 0; i < kChains; ++i) chain[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512bh factor = (__m512bh)_mm512_set1_epi16(0x3f00);
  for (int64_t round = 0; round < rounds; ++round) {
    TW_UNROLL for (int i = 0; i < kChains; ++i) {
      chain[i] = _mm512_dpbf16_ps(chain[i], factor, factor);
      asm volatile("" : "+v"(chain[i]));
    }
  }
  return 4.0 * kLanes * kChains * static_cast<double>(rounds);
}
#else
constexpr double (*multiply_bf16)(int64_t) = nullptr;
#endif

float read(const float* data, size_t count) {
  constexpr size_t kStreams = 8;
  constexpr size_t kAhead = 4096 / sizeof(float);  // past the page, where the hardware stops fetching ahead
  vf total[kStreams] = {};
  for (size_t i = 0; i + kStreams * kLanes <= count; i += kStreams * kLanes) {
    TW_UNROLL for (size_t s = 0; s < kStreams; ++s) {
      if (s * kLanes % 16 == 0) __builtin_prefetch(data + i + s * kLanes + kAhead, 0, 2);
      total[s] += load(data + i + s * kLanes);
    }
  }
  TW_UNROLL for (size_t s = 1; s < kStreams; ++s) total[0] += total[s];
  return sum(total[0]);
}

}  // namespace

extern const Probe kProbe;
constinit const Probe kProbe = {multiply_f32, multiply_bf16, read};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
