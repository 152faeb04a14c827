// How grouped convolution deals output channels to vectors, and the weight laid out accordingly.
#pragma once

#include "conv2d/cpu/conv2d.h"
#include "cpu/pack.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// The channels of one vector.
struct Vector {
  int64_t group, k;  // of the first lane
  int64_t in, out;   // its first input channel, and its output channel, of all groups together
};

// How output channels are dealt to vectors. The last vector ends with the last channel, and computes once
// more what the one before has, if need be: so there are no parts of vectors, except of very few channels.
struct Dealing {
  int64_t groups, in_channels, out_channels;  // channels of one group
  int64_t groups_per_vector;
  int64_t vectors_per_group;  // of groups larger than a vector
  int64_t used;               // lanes
  int64_t vectors;

  explicit Dealing(const Conv2dGeometry& g)
      : groups(g.groups), in_channels(g.in_channels), out_channels(g.out_channels) {
    const int64_t larger = max(1, max(in_channels, out_channels));
    groups_per_vector = max(1, min(groups, kLanes / larger));
    vectors_per_group = ceil_div(out_channels, kLanes);
    used = min(groups_per_vector * out_channels, kLanes);
    vectors = vectors_per_group > 1 ? groups * vectors_per_group : ceil_div(groups, groups_per_vector);
  }

  Vector at(int64_t vector) const {
    Vector v{};
    if (vectors_per_group > 1) {
      v.group = vector / vectors_per_group;
      v.k = min(vector % vectors_per_group * kLanes, out_channels - kLanes);
    } else {
      v.group = min(vector * groups_per_vector, groups - groups_per_vector);
    }
    v.in = v.group * in_channels;
    v.out = v.group * out_channels + v.k;
    return v;
  }

  // Of a vector's lane: its group after the vector's first, and its output channel after the first.
  int64_t lane_group(int64_t lane) const {
    return vectors_per_group > 1 ? 0 : lane / out_channels;
  }
  int64_t lane_k(int64_t lane) const {
    return vectors_per_group > 1 ? lane : lane % out_channels;
  }

  // Input channels of a vector.
  int64_t span() const {
    return groups_per_vector * in_channels;
  }
};

// The weight of one vector: [input channel][row][column][kLanes], in fp32, zero in lanes without a channel.
template <class T>
void pack_vector(float* to, const T* weight, const Conv2dGeometry& g, const Dealing& deal, int64_t vector) {
  const Vector v = deal.at(vector);
  const T* from = weight + g.weight_origin + v.group * g.weight_g + v.k * g.weight_k;
  const int64_t taps = g.kernel_h * g.kernel_w;
  const bool even =
      deal.groups_per_vector == 1 || g.out_channels == 1 || g.weight_g == g.out_channels * g.weight_k;
  const int64_t step = g.out_channels == 1 ? g.weight_g : g.weight_k;
  const bool dense = (g.kernel_w == 1 || g.weight_s == 1) && (g.kernel_h == 1 || g.weight_r == g.kernel_w) &&
                     (g.in_channels == 1 || g.weight_c == taps);
  if (even && dense) {
    return pack_panel(to, from, step, 1, kLanes, static_cast<int>(deal.used), g.in_channels * taps);
  }
  for (int64_t c = 0; c < g.in_channels; ++c) {
    for (int64_t r = 0; r < g.kernel_h; ++r) {
      for (int64_t s = 0; s < g.kernel_w; ++s) {
        T lanes[kLanes] = {};
        for (int64_t lane = 0; lane < deal.used; ++lane) {
          lanes[lane] = from[deal.lane_group(lane) * g.weight_g + deal.lane_k(lane) * g.weight_k +
                             c * g.weight_c + r * g.weight_r + s * g.weight_s];
        }
        store(to, load(lanes));
        to += kLanes;
      }
    }
  }
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
