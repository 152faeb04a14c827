// What multiplies: operands of a dtype, and the steps of the micro-kernel that take them.
#pragma once

#include "cpu/microkernel.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// fp32 arithmetic of operands stored as T.
template <class T>
struct F32 {
  using Element = T;
#if defined(__AVX2__) || defined(__aarch64__)
  using Step = WidenedStep<T>;
#else
  using Step = WidenedStep<float>;  // widened when packed: by hand, in the inner loop, it would push sums out
#endif
};

#if defined(__AVX512F__)
struct Bf16 {
  using Element = bf16;
  using Step = Bf16PairStep;
};
#endif

// Calls `f` with the fp32 arithmetic of the operands' dtype.
template <class F>
TW_INLINE auto with_math(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::bf16:
      return f(F32<bf16>{});
    case Dtype::f16:
      return f(F32<f16>{});
    case Dtype::f32:
      break;
  }
  return f(F32<float>{});
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
