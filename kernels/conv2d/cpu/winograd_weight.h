// The weight of Winograd's convolution: transformed, and laid out for the register tiles.
#pragma once

#include "conv2d/cpu/conv2d.h"
#include "conv2d/cpu/winograd_points.h"
#include "cpu/microkernel.h"
#include "cpu/pack.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// Input channels that are transformed at a time: their taps wait in L1.
constexpr int64_t kWeightChunk = 16;

// Taps of up to kWeightChunk input channels and one panel of output channels, in fp32.
struct Taps {
  alignas(64) float value[kWeightChunk * 9 * kPanel];
  int64_t tap, channel;  // floats from one to the next

  // Reads `count` channels; `weight` is the first of them, of the panel's first output channel and of the
  // window's first position.
  template <class T>
  void read(const T* weight, const Conv2dGeometry& g, int valid, int64_t count) {
    const bool flipped = g.weight_s < 0;
    const bool dense = g.weight_s == (flipped ? -1 : 1) && g.weight_r == 3 * g.weight_s;
    if (!dense) {
      tap = kWeightChunk * kPanel;
      channel = kPanel;
      for (int64_t at = 0; at < 9; ++at) {
        pack_panel(value + at * tap, weight + at / 3 * g.weight_r + at % 3 * g.weight_s, g.weight_k,
                   g.weight_c, kPanel, valid, count);
      }
      return;
    }
    // The nine taps of a channel lie side by side, so they are read like nine channels.
    const T* first = flipped ? weight - 8 : weight;
    tap = flipped ? -kPanel : kPanel;
    channel = 9 * kPanel;
    if (g.weight_c == 9) return pack_panel(value, first, g.weight_k, 1, kPanel, valid, 9 * count);
    for (int64_t c = 0; c < count; ++c) {
      pack_panel(value + c * channel, first + c * g.weight_c, g.weight_k, 1, kPanel, valid, 9);
    }
  }

  const float* at(int64_t c) const {
    return value + c * channel + (tap < 0 ? -8 * tap : 0);
  }
};

// to[position · to_position + c · kPanel + k] = (G w G^T)[position] for the `count` input channels and the
// panel of output channels whose first is at `weight`; those that fill the panel are zero.
template <class T>
void transform_weight(float* to, int64_t to_position, const T* weight, const Conv2dGeometry& g, int valid,
                      int64_t count) {
  Taps taps;
  taps.read(weight, g, valid, count);
  for (int64_t c = 0; c < count; ++c) {
    for (int lane = 0; lane < kPanel; lane += kLanes) {
      const float* from = taps.at(c) + lane;
      float* out = to + c * kPanel + lane;
      vf half[kPoints][3];
      TW_UNROLL for (int s = 0; s < 3; ++s) {
        vf w[3], u[kPoints];
        TW_UNROLL for (int r = 0; r < 3; ++r) w[r] = load(from + (3 * r + s) * taps.tap);
        winograd::evaluate_weight(w, u);
        TW_UNROLL for (int i = 0; i < kPoints; ++i) half[i][s] = u[i];
      }
      TW_UNROLL for (int i = 0; i < kPoints; ++i) {
        vf u[kPoints];
        winograd::evaluate_weight(half[i], u);
        TW_UNROLL for (int j = 0; j < kPoints; ++j) store(out + (i * kPoints + j) * to_position, u[j]);
      }
    }
  }
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
