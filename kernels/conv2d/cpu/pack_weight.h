// Lays a convolution's weight out for the register tiles.
#pragma once

#include "conv2d/cpu/conv2d.h"
#include "cpu/microkernel.h"
#include "cpu/pack.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// One panel of output channels: [position in the window][step of input channels][kPanel]. Channels that fill
// the last step, and output channels that fill the panel, are zero.
template <class Unit, class T>
void pack_weight_panel(Unit* to, const T* weight, const Conv2dGeometry& g, int64_t channel, int64_t steps) {
  const int valid = static_cast<int>(min(kPanel, g.out_channels - channel));
  for (int64_t r = 0; r < g.kernel_h; ++r) {
    for (int64_t s = 0; s < g.kernel_w; ++s) {
      pack_panel(to, weight + channel * g.weight_k + r * g.weight_r + s * g.weight_s, g.weight_k, g.weight_c,
                 kPanel, valid, g.in_channels);
      to += steps * kPanel;
    }
  }
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
