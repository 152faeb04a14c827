// Lays a convolution's weight out for the register tiles.
#pragma once

#include "conv2d/cpu/conv2d.h"
#include "cpu/microkernel.h"
#include "cpu/pack.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// What is stored for a step: one channel, or a pair of them.
template <class T>
TW_INLINE void store_step(T* to, const vf* channels, bool) {
  store(to, channels[0]);
}

#if defined(__AVX512F__)
TW_INLINE void store_step(uint32_t* to, const vf* channels, bool whole) {
  store(reinterpret_cast<float*>(to), pair(channels[0], whole ? channels[1] : zero()));
}
#endif

// The same for weights as torch lays them out by default, a row of (c, r, s) for each output channel: read
// along those rows and transposed, where the general way would gather every value by itself.
template <int kDepth, class Unit, class T>
void pack_weight_rows(Unit* to, const T* weight, const Conv2dGeometry& g, int valid, int64_t steps) {
  const int64_t positions = g.kernel_h * g.kernel_w, length = g.in_channels * positions;
  constexpr int64_t kRows = 16 * kLanes;  // of values at a time, in L1
  const int64_t channels_at_once = max(1, kRows / kLanes / positions / kDepth) * kDepth;
  alignas(64) float turned[(kRows + kLanes) * kLanes];
  if (channels_at_once * positions > kRows) __builtin_unreachable();  // see packs_rows
  for (int lane0 = 0; lane0 < kPanel; lane0 += kLanes) {
    for (int64_t c0 = 0; c0 < g.in_channels; c0 += channels_at_once) {
      const int64_t channels = min(channels_at_once, g.in_channels - c0), values = channels * positions;
      for (int64_t at = 0; at < values; at += kLanes) {
        vf rows[kLanes];
        TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
          const T* from = weight + (lane0 + lane) * g.weight_k + c0 * positions + at;
          const int64_t left = length - c0 * positions - at;
          rows[lane] = lane0 + lane < valid ? load_upto(from, static_cast<int>(min(kLanes, left))) : zero();
        }
        transpose(rows);
        TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) store(turned + (at + lane) * kLanes, rows[lane]);
      }
      for (int64_t position = 0; position < positions; ++position) {
        for (int64_t c = 0; c < channels; c += kDepth) {
          const bool whole = c + kDepth <= channels;
          vf both[2];
          for (int i = 0; i < (whole ? kDepth : 1); ++i) {
            both[i] = load(turned + ((c + i) * positions + position) * kLanes);
          }
          store_step(to + (position * steps + (c0 + c) / kDepth) * kPanel + lane0, both, whole);
        }
      }
    }
  }
}

inline bool packs_rows(const Conv2dGeometry& g) {
  const int64_t positions = g.kernel_h * g.kernel_w;
  return positions > 1 && positions <= 32 && g.weight_s == 1 && g.weight_r == g.kernel_w &&
         g.weight_c == positions;
}

// One panel of output channels: [position in the window][step of input channels][kPanel]. Channels that fill
// the last step, and output channels that fill the panel, are zero.
template <int kDepth, class Unit, class T>
void pack_weight_panel(Unit* to, const T* weight, const Conv2dGeometry& g, int64_t channel, int64_t steps) {
  const int valid = static_cast<int>(min(kPanel, g.out_channels - channel));
  if (packs_rows(g)) {
    pack_weight_rows<kDepth>(to, weight + channel * g.weight_k, g, valid, steps);
    return;
  }
  for (int64_t r = 0; r < g.kernel_h; ++r) {
    for (int64_t s = 0; s < g.kernel_w; ++s) {
      pack_panel(to, weight + channel * g.weight_k + r * g.weight_r + s * g.weight_s, g.weight_k, g.weight_c,
                 kPanel, valid, g.in_channels);
      to += steps * kPanel;
    }
  }
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
