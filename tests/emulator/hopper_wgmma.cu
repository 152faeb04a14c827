// wgmma by itself: every operand type, swizzle and layout, widths from 8 to 256, two tiles of sums in flight,
// against plain loops; the operands are written by threads, so that the proxy's fence has its part.
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "harness.h"

using namespace tilewright;
using cuda::Swizzle;
using emulator::Use;
using harness::Global;

namespace {

enum Mutation {
  kNone,
  kNoProxyFence,   // the operands are written without one
  kNoSync,         // and before the others know
  kFenceTooEarly,  // wgmma_fence before the sums are set
  kOverwrite,      // an operand is written again while it is read
  kTwoFromOne,     // two of the four warps multiply into other sums
};

template <class T>
struct Element;
template <>
struct Element<__nv_bfloat16> {
  using Bits = uint16_t;
  static Bits of(float value) {
    return __bfloat16_as_ushort(__float2bfloat16(value));
  }
};
template <>
struct Element<__half> {
  using Bits = uint16_t;
  static Bits of(float value) {
    return __half_as_ushort(__float2half(value));
  }
};
template <>
struct Element<cuda::Tf32> {
  using Bits = uint32_t;
  static Bits of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits | 0x1234;  // tf32 does not look at the low 13 bits
  }
};

constexpr int kDepth = 64;  // elements of k, four steps of 16 or eight of 8

// Where element (m, k) of an operand of `rows` rows lies: panels of one span (K-major: of k; MN-major: of m),
// the lines of a panel one after another.
template <class Bits>
TILEWRIGHT_DEVICE int place(int m, int k, int rows, bool mn_major, Swizzle swizzle) {
  const int span = cuda::span_of(swizzle), wide = span / static_cast<int>(sizeof(Bits));
  const int line = mn_major ? m / wide * kDepth + k : k / wide * rows + m;
  const int byte = line * span + (mn_major ? m % wide : k % wide) * static_cast<int>(sizeof(Bits));
  return byte ^ (byte / 128 % (span / 16) * 16);
}

// The descriptor of k-step `step`, and how operands are described.
template <class Bits>
TILEWRIGHT_DEVICE uint64_t describe(const unsigned char* base, int rows, bool mn_major, Swizzle swizzle,
                                    int step) {
  const int span = cuda::span_of(swizzle), per_step = 32 / static_cast<int>(sizeof(Bits));
  if (mn_major) {
    const int panel = kDepth * span;
    // Without a swizzle the two offsets change places.
    if (swizzle == Swizzle::none)
      return ptx::shared_descriptor(base + step * per_step * span, 8 * span, panel, swizzle);
    return ptx::shared_descriptor(base + step * per_step * span, panel, 8 * span, swizzle);
  }
  const int byte = step * 32;
  return ptx::shared_descriptor(base + byte / span * rows * span + byte % span, rows * span, 8 * span,
                                swizzle);
}

// y (128 x N) = x a b + 1, two tiles of 64 rows.
template <int N, class T, bool a_mn, bool b_mn>
TILEWRIGHT_KERNEL void multiply(const typename Element<T>::Bits* a, const typename Element<T>::Bits* b,
                                float* y, Swizzle swizzle, int mutation) {
  using Bits = typename Element<T>::Bits;
  TILEWRIGHT_SHARED(shared);
  unsigned char* const shared_b = shared + 128 * kDepth * sizeof(Bits);
  const int thread = static_cast<int>(threadIdx.x);
  const auto fill = [&](unsigned char* to, const Bits* from, int rows, bool mn) {
    for (int i = thread; i < rows * kDepth; i += 128) {
      *reinterpret_cast<Bits*>(to + place<Bits>(i / kDepth, i % kDepth, rows, mn, swizzle)) = from[i];
    }
  };
  fill(shared, a, 128, a_mn);
  fill(shared_b, b, N, b_mn);
  if (mutation != kNoProxyFence) ptx::fence_async_proxy();
  if (mutation != kNoSync) ptx::sync_threads();
  float first[N / 2], second[N / 2];
  if (mutation == kFenceTooEarly) ptx::wgmma_fence();
  for (int i = 0; i < N / 2; ++i) first[i] = second[i] = 1.0f;
  if (mutation != kFenceTooEarly) ptx::wgmma_fence();
  constexpr int kSteps = kDepth * static_cast<int>(sizeof(Bits)) / 32;
  // The second tile's first 64 rows: half a panel row further, or the panel after (MN-major: spans of m).
  const int span = cuda::span_of(swizzle);
  const int half = a_mn ? 64 * static_cast<int>(sizeof(Bits)) / span * kDepth * span : 64 * span;
  for (int step = 0; step < kSteps; ++step) {
    const uint64_t to_b = describe<Bits>(shared_b, N, b_mn, swizzle, step);
    const uint64_t to_a = describe<Bits>(shared, 128, a_mn, swizzle, step);
    const bool swapped = mutation == kTwoFromOne && thread >= 64;
    ptx::wgmma<N, T, a_mn, b_mn>(first, swapped ? ptx::advance_descriptor(to_a, half) : to_a, to_b, true);
    ptx::wgmma<N, T, a_mn, b_mn>(second, ptx::advance_descriptor(to_a, half), to_b, true);
  }
  ptx::wgmma_commit();
  if (mutation == kOverwrite && thread == 5) *reinterpret_cast<Bits*>(shared) = 0;
  ptx::wgmma_wait<0>();
  for (int i = 0; i < N / 2; ++i) {
    const int row = thread / 32 * 16 + i / 2 % 2 * 8 + thread % 32 / 4,
              column = i / 4 * 8 + thread % 4 * 2 + i % 2;
    y[row * N + column] = first[i];
    y[(row + 64) * N + column] = second[i];
  }
}

template <int N, class T, bool a_mn, bool b_mn>
bool check(Swizzle swizzle, int mutation) {
  using Bits = typename Element<T>::Bits;
  Global<Bits> a(128 * kDepth, Use::input, "a"), b(N * kDepth, Use::input, "b");
  Global<float> y(128 * N, Use::output, "y");
  const auto a_value = [](int i) { return harness::whole(static_cast<uint32_t>(i)); };
  const auto b_value = [](int i) { return harness::whole(static_cast<uint32_t>(i + 5555)); };
  for (size_t i = 0; i < a.size(); ++i) a[i] = Element<T>::of(a_value(static_cast<int>(i)));
  for (size_t i = 0; i < b.size(); ++i) b[i] = Element<T>::of(b_value(static_cast<int>(i)));
  const size_t bytes = (128 + N) * kDepth * sizeof(Bits);
  cuda::launch(multiply<N, T, a_mn, b_mn>, {dim3(1), 128, 1, bytes}, nullptr, a.data(), b.data(), y.data(),
               swizzle, mutation);
  bool right = true;
  for (int row = 0; row < 128; ++row) {
    for (int column = 0; column < N; ++column) {
      float sum = 1;
      for (int k = 0; k < kDepth; ++k) sum += a_value(row * kDepth + k) * b_value(column * kDepth + k);
      right &= y[static_cast<size_t>(row * N + column)] == sum;
    }
  }
  return right;
}

template <class T, bool a_mn, bool b_mn>
bool check_swizzles() {
  bool right = true;
  for (const Swizzle swizzle : {Swizzle::none, Swizzle::b32, Swizzle::b64, Swizzle::b128}) {
    right &= check<64, T, a_mn, b_mn>(swizzle, kNone);
  }
  return right;
}

bool run_layouts(int) {
  bool right = check_swizzles<__nv_bfloat16, false, false>() && check_swizzles<__nv_bfloat16, true, false>();
  right &= check_swizzles<__nv_bfloat16, false, true>() && check_swizzles<__nv_bfloat16, true, true>();
  right &= check_swizzles<__half, false, false>() && check_swizzles<__half, true, true>();
  return right && check_swizzles<cuda::Tf32, false, false>();
}

bool run_widths(int mutation) {
  if (mutation != kNone) return check<64, __nv_bfloat16, false, false>(Swizzle::b128, mutation);
  bool right = check<8, __nv_bfloat16, false, false>(Swizzle::b128, kNone);
  right &= check<24, __half, false, false>(Swizzle::b128, kNone) &&
           check<96, __half, false, false>(Swizzle::b64, kNone);
  right &= check<128, __nv_bfloat16, false, true>(Swizzle::b128, kNone);
  right &= check<192, __nv_bfloat16, true, true>(Swizzle::b128, kNone);
  return right && check<256, cuda::Tf32, false, false>(Swizzle::b128, kNone);
}

const harness::Registration kCases[] = {
    harness::Registration({"hopper_wgmma",
                           {"no_proxy_fence", "no_sync", "fence_too_early", "overwrite", "two_from_one"},
                           run_widths}),
    harness::Registration({"hopper_wgmma_layouts", {}, run_layouts}),
};

}  // namespace
