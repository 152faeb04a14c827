// The one-dimensional transforms of Winograd's convolution F(m, 3) for m = 1 to 4 outputs of a row (or
// column).
//
// m outputs of a filter of 3 taps are the coefficients of a product of polynomials, read backwards: evaluate
// both at m + 2 points, multiply value by value, interpolate (Toom-Cook, transposed). Here the points are 0,
// infinity, ±a and ±b, of which F(m, 3) takes the first m + 2:
//
//     y = A^T [(G w) ⊙ (B^T x)]        point p:  (G w)_p = (w0 + p·w1 + p²·w2) / prod over q of (p - q)
//                                                 A^T has p^i for output i
//                                                 B^T has the coefficients of prod over q ≠ p of (z - q)
//
// The divisor is that of F(4, 3) for every m, so that one transformed weight serves all of them; B^T of the
// shorter ones makes up for it, with (p - q) for each point q that they leave out.
//
// a = 5/8 and b = 3/2 were found by measuring: errors over random operands are 2.2 times (root mean square)
// and 4 times (largest) smaller than with the customary 1 and 2, since products and sums of values of like
// size cancel less. All constants of A and B are dyadic, so they are exact. The same numbers stand in
// ../winograd.py.
#pragma once

#include "cpu/simd.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

constexpr int kTileSide = 4;                   // outputs
constexpr int kPoints = kTileSide + 2;         // of a side
constexpr int kPositions = kPoints * kPoints;  // of a tile

namespace winograd {

constexpr float a = 0.625f, b = 1.5f;
constexpr float a2 = a * a, b2 = b * b;

TW_INLINE vf times(float c, vf v) {
  return broadcast(c) * v;
}

TW_INLINE vf add(float c, vf v, vf sum) {
  return fma(broadcast(c), v, sum);
}

// Two of the six points of F(4, 3), in their order: one pair takes four values of d, the first all six.
template <int kPair>
TW_INLINE void evaluate_pair(const vf (&d)[kPoints], vf& one, vf& other) {
  if constexpr (kPair == 0) {
    one = add(a2 * b2, d[0], add(-(a2 + b2), d[2], d[4]));
    other = add(a2 * b2, d[1], add(-(a2 + b2), d[3], d[5]));
  } else {
    constexpr float p = kPair == 1 ? a : b, left_out = kPair == 1 ? b2 : a2;
    const vf even = add(-left_out, d[2], d[4]), odd = add(-left_out, d[1], d[3]);
    one = add(p, odd, even);
    other = add(-p, odd, even);
  }
}

// t = B^T d, for d of kOutputs + 2 values; points are in the order 0, infinity, a, -a, b, -b.
template <int kOutputs>
TW_INLINE void evaluate(const vf (&d)[kPoints], vf (&t)[kPoints]) {
  if constexpr (kOutputs == 4) {
    evaluate_pair<0>(d, t[0], t[1]);
    evaluate_pair<1>(d, t[2], t[3]);
    evaluate_pair<2>(d, t[4], t[5]);
  } else if constexpr (kOutputs == 3) {
    // d3 - a²·d1 + (a² d0 - d2)·b, times b; and so on.
    const vf odd = add(-a2, d[1], d[3]);
    t[0] = times(b, add(b, add(a2, d[0], -d[2]), odd));
    t[1] = add(-b, odd, add(-a2, d[2], d[4]));
    const vf even = times(a2 - b2, d[2]);
    t[2] = add(a + b, add(-a * b, d[1], d[3]), even);
    t[3] = add(b - a, add(a * b, d[1], d[3]), even);
    t[4] = times(2 * b, odd);
  } else if constexpr (kOutputs == 2) {
    t[0] = times(b2, add(a2, d[0], -d[2]));
    t[1] = add(-a2, d[1], d[3]);
    t[2] = times(a2 - b2, add(a, d[1], d[2]));
    t[3] = times(a2 - b2, add(-a, d[1], d[2]));
  } else {
    t[0] = times(a * b2, add(a, d[0], -d[1]));
    t[1] = add(-a, d[1], d[2]);
    t[2] = times(2 * a * (a2 - b2), d[1]);
  }
}

// y = A^T m.
template <int kOutputs>
TW_INLINE void interpolate(const vf (&m)[kPoints], vf (&y)[kTileSide]) {
  if constexpr (kOutputs == 4) {
    const vf even_a = m[2] + m[3], odd_a = m[2] - m[3], even_b = m[4] + m[5], odd_b = m[4] - m[5];
    y[0] = m[0] + even_a + even_b;
    y[1] = add(b, odd_b, times(a, odd_a));
    y[2] = add(b2, even_b, times(a2, even_a));
    y[3] = add(b * b2, odd_b, add(a * a2, odd_a, m[1]));
  } else if constexpr (kOutputs == 3) {
    const vf even = m[2] + m[3], odd = m[2] - m[3];
    y[0] = m[0] + even + m[4];
    y[1] = add(b, m[4], times(a, odd));
    y[2] = add(b2, m[4], add(a2, even, m[1]));
  } else if constexpr (kOutputs == 2) {
    y[0] = m[0] + (m[2] + m[3]);
    y[1] = add(a, m[2] - m[3], m[1]);
  } else {
    y[0] = m[0] + m[1] + m[2];
  }
}

// The points p and -p of u = G w.
TW_INLINE void evaluate_weight_pair(double scale, float p, const vf (&w)[3], vf& plus, vf& minus) {
  const vf even = add(static_cast<float>(p * p * scale), w[2], times(static_cast<float>(scale), w[0]));
  plus = add(static_cast<float>(p * scale), w[1], even);
  minus = add(static_cast<float>(-p * scale), w[1], even);
}

// u = G w.
TW_INLINE void evaluate_weight(const vf (&w)[3], vf (&u)[kPoints]) {
  u[0] = times(static_cast<float>(1 / (double{a2} * b2)), w[0]);
  u[1] = w[2];
  evaluate_weight_pair(1 / (2.0 * a2 * (a2 - b2)), a, w, u[2], u[3]);
  evaluate_weight_pair(1 / (2.0 * b2 * (b2 - a2)), b, w, u[4], u[5]);
}

}  // namespace winograd

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
