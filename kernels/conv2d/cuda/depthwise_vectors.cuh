// Depthwise convolution on images whose channels lie side by side (NHWC): a thread owns 8 channels
// × 4 neighbouring pixels of a row of y.
//
//     block: `lanes` vectors × 128 / lanes strips of 4 pixels, `rounds` times
//
// Weights lie in memory channel by channel; a block lays those of its channels out tap by tap, as fp32, in
// shared memory, four channels of neighbouring vectors side by side so that no two lanes meet in a bank.
// Windows that do not fit are taken in slices. With a window whose width is known to the compiler and no
// dilation, a row of x is loaded once for the four pixels (6 vectors for 3 × 3 instead of 12).
#pragma once

#include "conv2d/cuda/depthwise.cuh"
#include "cuda/ptx/sync.cuh"

namespace tilewright::cuda::conv {

struct DepthwiseVectors {
  Depthwise d;    // units are strips of 4 pixels; by_pixel_units counts those of a row, by_channel_units rows
  int log_lanes;  // vectors of a block
  int slice;      // taps that shared memory holds
  int rounds;     // strips of a thread
};

inline constexpr int kVector = 8, kQuads = kVector / 4;

template <class T>
TILEWRIGHT_DEVICE void read_vector(float (&value)[kVector], const T* from) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) value[i] = 0.0f;
  add_eight(value, load_eight(from, kTypeOf<T>, true, 1, kVector), kTypeOf<T>);
}

TILEWRIGHT_DEVICE void read_weights(float (&w)[kVector], const float4* from, int lanes) {
#pragma unroll
  for (int quad = 0; quad < kQuads; ++quad) {
    const float4 four = from[quad * lanes];
    w[quad * 4] = four.x;
    w[quad * 4 + 1] = four.y;
    w[quad * 4 + 2] = four.z;
    w[quad * 4 + 3] = four.w;
  }
}

TILEWRIGHT_DEVICE void multiply_add(float (&sums)[kVector], const float (&x)[kVector],
                                    const float (&w)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) sums[i] += x[i] * w[i];
}

// In the order of shared memory, so that stores do not meet in a bank; the taps of a channel are neighbours,
// which later rounds of the loop find in L1.
template <class T>
TILEWRIGHT_DEVICE void stage_weights(const Depthwise& d, float* staged, int log_lanes, int first_channel,
                                     int first_tap, int held) {
  const int channels = kVector << log_lanes, quad_size = 4 << log_lanes;
  for (int i = static_cast<int>(threadIdx.x); i < held * channels; i += kDepthwiseThreads) {
    const int tap = i / channels, within = i % channels, quad = within / quad_size,
              lane = within % quad_size / 4;
    const int k = first_channel + lane * kVector + quad * 4 + within % 4;
    const int r = (first_tap + tap) / d.taps_w, s = (first_tap + tap) % d.taps_w;
    const T* const weight = static_cast<const T*>(d.weight) + r * d.weight_r + s * d.weight_s;
    staged[i] = k < d.out_channels ? to_float(weight[k * d.weight_k]) : 0.0f;
  }
}

template <class T, int taps_w, int stride>  // 0: any, tap by tap
TILEWRIGHT_KERNEL void __launch_bounds__(kDepthwiseThreads)
    depthwise_vectors(const __grid_constant__ DepthwiseVectors v) {
  TILEWRIGHT_SHARED(shared);
  float4* const staged = reinterpret_cast<float4*>(shared);  // [tap][quad of the vector][lane]
  const Depthwise& d = v.d;
  const int thread = static_cast<int>(threadIdx.x), lanes = 1 << v.log_lanes, lane = thread & (lanes - 1);
  const int first_channel = static_cast<int>(blockIdx.y) * lanes * kVector;
  const int k = first_channel + lane * kVector;
  const int taps = d.taps_h * d.taps_w;
  const bool exists = k < d.out_channels;
  const uint32_t strips = kDepthwiseThreads >> v.log_lanes;
  const T* const x = static_cast<const T*>(d.x) + k;

  for (int round = 0; round < v.rounds; ++round) {
    const uint32_t unit = (blockIdx.x * v.rounds + round) * strips + (thread >> v.log_lanes);
    const uint32_t row_of_batch = d.by_pixel_units.divide(unit), n = d.by_channel_units.divide(row_of_batch);
    const int q = static_cast<int>(d.by_pixel_units.remainder(unit, row_of_batch)) * kDepthwisePixels;
    const int p = static_cast<int>(d.by_channel_units.remainder(row_of_batch, n));
    const bool works = exists && unit < d.units;
    const T* const image = x + n * d.x_n;
    float sums[kDepthwisePixels][kVector] = {};
    for (int first_tap = 0; first_tap < taps; first_tap += v.slice) {
      const int held = taps - first_tap < v.slice ? taps - first_tap : v.slice;
      if (round == 0 || held < taps) {
        if (round > 0 || first_tap > 0) ptx::sync_threads();
        stage_weights<T>(d, reinterpret_cast<float*>(shared), v.log_lanes, first_channel, first_tap, held);
        ptx::sync_threads();
      }
      if (!works) continue;
      if constexpr (taps_w > 0) {
#pragma unroll 1
        for (int r = 0; r < d.taps_h; ++r) {
          const int row = p * d.stride_h - d.top + r;
          if (static_cast<uint32_t>(row) >= static_cast<uint32_t>(d.height)) continue;
          float w[taps_w][kVector];
#pragma unroll
          for (int s = 0; s < taps_w; ++s) {
            read_weights(w[s], staged + ((r * taps_w + s) * kQuads << v.log_lanes) + lane, lanes);
          }
#pragma unroll
          for (int i = 0; i < (kDepthwisePixels - 1) * stride + taps_w; ++i) {
            const int column = q * stride - d.left + i;
            if (static_cast<uint32_t>(column) >= static_cast<uint32_t>(d.width)) continue;
            float value[kVector];
            read_vector(value, image + row * d.x_h + column * d.x_w);
#pragma unroll
            for (int out = 0; out < kDepthwisePixels; ++out) {
              const int s = i - out * stride;
              if (s >= 0 && s < taps_w) multiply_add(sums[out], value, w[s]);
            }
          }
        }
      } else {
        int r = first_tap / d.taps_w, s = first_tap - r * d.taps_w;
        for (int tap = 0; tap < held; ++tap) {
          const int row = p * d.stride_h - d.top + r * d.dilation_h;
          if (static_cast<uint32_t>(row) < static_cast<uint32_t>(d.height)) {
            float w[kVector];
            read_weights(w, staged + (tap * kQuads << v.log_lanes) + lane, lanes);
#pragma unroll
            for (int out = 0; out < kDepthwisePixels; ++out) {
              const int column = (q + out) * d.stride_w - d.left + s * d.dilation_w;
              if (static_cast<uint32_t>(column) >= static_cast<uint32_t>(d.width)) continue;
              float value[kVector];
              read_vector(value, image + row * d.x_h + column * d.x_w);
              multiply_add(sums[out], value, w);
            }
          }
          if (++s == d.taps_w) s = 0, ++r;
        }
      }
    }
    if (!works) continue;
#pragma unroll
    for (int i = 0; i < kDepthwisePixels; ++i) {
      if (q + i < d.out_width) d.output.finish(sums[i], n, k, p, q + i, d.out_channels - k);
    }
  }
}

}  // namespace tilewright::cuda::conv
