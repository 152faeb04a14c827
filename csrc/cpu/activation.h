// The activations of kernels/epilogue.py on vectors of fp32. Errors over all of fp32, measured against
// float64: gelu 7 ulp, gelu_tanh 4, silu 3 where |y| > 2e-36; below, exp itself is subnormal and has fewer
// bits. NaN stays NaN; gelu, gelu_tanh and silu of -inf are NaN, as torch's float64 gives them.
#pragma once

#include "cpu/simd.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// exp(x + tail), tail a correction far below x's ulp that keeps the error small where x itself was rounded.
// Cody and Waite: x = n ln2 + r, a polynomial for exp(r), the exponent put on in two steps so that the
// largest and the subnormal results come out.
TW_INLINE vf exp(vf x, vf tail) {
  x = select(x > 89.0f, broadcast(89.0f), x);
  x = select(x < -104.0f, broadcast(-104.0f), x);
  const vf magic = broadcast(12582912.0f);  // 1.5·2^23: adding it leaves the rounded integer in the low bits
  const vf shifted = fma(x, broadcast(1.44269504f), magic);
  const vf n = shifted - magic;
  // ln2 in two parts, the first with so few bits that n·part is exact.
  vf r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  r = r + tail;
  vf p = broadcast(1.0f / 5040.0f);
  p = fma(p, r, broadcast(1.0f / 720.0f));
  p = fma(p, r, broadcast(1.0f / 120.0f));
  p = fma(p, r, broadcast(1.0f / 24.0f));
  p = fma(p, r, broadcast(1.0f / 6.0f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p * r, r, r);
  p = p + 1.0f;
  const vi exponent = bits(shifted) - bits(magic);
  const vi half = exponent >> 1;
  const vf scale = (vf)((half + 127) << 23);
  const vf rest = (vf)((exponent - half + 127) << 23);
  return p * scale * rest;
}

TW_INLINE vf relu(vf z) {
  return select(z < 0.0f, zero(), z);  // a comparison with NaN is false, so NaN stays
}

TW_INLINE vf silu(vf z) {
  // exp of -|z| never overflows: z·e/(1+e) for negative z keeps the relative error small out to the
  // subnormals.
  const vf e = exp(-abs(z), zero());
  const vf numerator = select(z < 0.0f, z * e, z);
  return numerator / (1.0f + e);
}

// z·Φ(z). For x = |z|: Φ(-x) = exp(-x²/2)·g(x), g = erfcx(x/√2)/2, which is t·P(t) with t = 1/(1 + 0.3x);
// P fitted to a relative error of 3.5e-9 on [0, 14.6], beyond which Φ(-x) is zero in fp32.
TW_INLINE vf gelu(vf z) {
  vf x = abs(z);
  x = select(x > 14.6f, broadcast(14.6f), x);
  const vf square = x * x;
  const vf lost = product_error(x, x, square);
  const vf decay = exp(-0.5f * square, -0.5f * lost);
  const vf t = 1.0f / fma(x, broadcast(0.3f), broadcast(1.0f));
  vf p = broadcast(-0.02062501f);
  p = fma(p, t, broadcast(0.11244422f));
  p = fma(p, t, broadcast(-0.22823448f));
  p = fma(p, t, broadcast(0.1918133f));
  p = fma(p, t, broadcast(-0.07944827f));
  p = fma(p, t, broadcast(0.096170634f));
  p = fma(p, t, broadcast(0.07838469f));
  p = fma(p, t, broadcast(0.11023653f));
  p = fma(p, t, broadcast(0.11957168f));
  p = fma(p, t, broadcast(0.1196867f));
  const vf lower = decay * (t * p);
  return z * select(z < 0.0f, lower, 1.0f - lower);
}

// z·sigmoid(2u), u = √(2/π)(z + 0.044715 z³), with e = exp(-2|u|). The argument reaches 88, where its
// rounding alone would cost 90 ulp of the result: it is carried in two floats.
TW_INLINE vf gelu_tanh(vf z) {
  const vf x0 = abs(z);
  const vf x = select(x0 > 12.0f, broadcast(12.0f), x0);
  const vf square = x * x;
  const vf square_low = product_error(x, x, square);
  // 2√(2/π) and 2√(2/π)·0.044715, each as the sum of two floats.
  const vf c1 = broadcast(1.5957692f), c1_low = broadcast(-4.534068e-08f);
  const vf c3 = broadcast(0.071354814f), c3_low = broadcast(2.3988325e-09f);
  const vf cubic = c3 * square;
  const vf cubic_low = fma(c3, square_low, fma(c3_low, square, product_error(c3, square, cubic)));
  const vf factor = c1 + cubic;
  const vf back = factor - c1;
  const vf factor_low = ((c1 - (factor - back)) + (cubic - back)) + (cubic_low + c1_low);
  const vf argument = x * factor;
  const vf argument_low = fma(x, factor_low, product_error(x, factor, argument));
  const vf e = exp(-argument, -argument_low);
  const vf numerator = select(z < 0.0f, z * e, z);
  return numerator / (1.0f + e);
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
