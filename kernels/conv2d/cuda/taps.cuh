// The order in which a convolution adds up: a sum's terms are numbered k = (r·S + s)·C + c, and a walk
// carries the digits of a k along with where its pixel lies.
//
// A step of the main loop adds the same number to every k. Its digits are computed on the host, and so is
// what they change in the offset; in the kernel a step is an addition digit by digit with at most one carry
// in each, without a division.
//
//     k          c  += step.c          c >= C:  c -= C, s += 1, one tap to the right
//     (r, s, c)  s  += step.s          s >= S:  s -= S, one row of taps down, S to the left
//                r  += step.r          r itself is only known by how far down it leads
#pragma once

#include "cuda/fast_divide.h"
#include "cuda/platform.cuh"

namespace tilewright::cuda::conv {

// What a number of terms further on means.
struct TapStep {
  int64_t offset;   // elements of x
  int c, s;         // digits
  int down, right;  // pixels of x
};

struct Taps {
  int channels, taps_w, terms;  // C, S, R·S·C
  int dilation_h, dilation_w;
  int window_w;              // S·dilation_w
  int64_t x_c, x_h, x_w;     // strides of x
  int64_t carry_c, carry_s;  // of the offset, beside what the step adds
  FastDivisor by_channels, by_taps_w;

  TapStep step(int64_t terms_on) const {  // on the host
    const int64_t c = terms_on % channels, s = terms_on / channels % taps_w, r = terms_on / channels / taps_w;
    return {c * x_c + s * dilation_w * x_w + r * dilation_h * x_h, static_cast<int>(c), static_cast<int>(s),
            static_cast<int>(r * dilation_h), static_cast<int>(s * dilation_w)};
  }
};

// One term of the sum: its digits c and s, and its pixel relative to that of tap (0, 0).
struct TapWalk {
  int64_t offset;
  int c, s, down, right;

  TILEWRIGHT_DEVICE void begin(const Taps& taps, int k) {
    const int tap = static_cast<int>(taps.by_channels.divide(k));
    c = static_cast<int>(taps.by_channels.remainder(k, tap));
    const int r = static_cast<int>(taps.by_taps_w.divide(tap));
    s = static_cast<int>(taps.by_taps_w.remainder(tap, r));
    down = r * taps.dilation_h;
    right = s * taps.dilation_w;
    offset = c * taps.x_c + down * taps.x_h + right * taps.x_w;
  }

  TILEWRIGHT_DEVICE void advance(const Taps& taps, const TapStep& step) {
    c += step.c;
    s += step.s;
    down += step.down;
    right += step.right;
    offset += step.offset;
    if (c >= taps.channels) {
      c -= taps.channels;
      s += 1;
      right += taps.dilation_w;
      offset += taps.carry_c;
    }
    if (s >= taps.taps_w) {
      s -= taps.taps_w;
      down += taps.dilation_h;
      right -= taps.window_w;
      offset += taps.carry_s;
    }
  }
};

}  // namespace tilewright::cuda::conv
