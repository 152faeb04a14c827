// Writes a tile of sums to y: epilogue and layout. Shared by the convolution kernels.
#pragma once

#include "conv2d/cpu/conv2d.h"
#include "cpu/epilogue.h"
#include "cpu/ranges.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// A strip of output pixels that lie at one distance from each other in y.
struct Strip {
  int64_t image, row, col;  // of the first
  int count;
};

// Where `count` pixels from `strip` and channels from `channel` of y begin, with the rules of the epilogue.
// Rows of the epilogue are pixels, its columns are channels.
inline Epilogue epilogue_at(const Conv2dGeometry& g, const Conv2dPointers& p, const Strip& strip,
                            int64_t channel) {
  Epilogue e{};
  e.activation = g.activation;
  e.out_dtype = g.dtype;
  e.bf16_units = g.bf16_units;
  const int64_t at = strip.image * g.y_n + strip.row * g.y_h + strip.col * g.y_w + channel * g.y_k;
  e.out = advance(p.y, at, g.dtype);
  if (g.keep_preact) e.preact = advance(p.preact, at, g.dtype);
  if (g.has_bias) {
    e.bias = advance(p.bias, channel * g.bias_stride, g.bias_dtype);
    e.bias_stride = g.bias_stride;
    e.bias_dtype = g.bias_dtype;
  }
  if (g.has_residual) {
    e.residual = advance(p.residual,
                         strip.image * g.residual_n + strip.row * g.residual_h + strip.col * g.residual_w +
                             channel * g.residual_k,
                         g.residual_dtype);
    e.residual_row = g.residual_w;
    e.residual_col = g.residual_k;
    e.residual_dtype = g.residual_dtype;
  }
  return e;
}

// Fetches the lines of y that finish_strip will write, while they are computed: the hardware does not foresee
// stores to many pixels, or many planes, in turn. Inlined, for g++ drops calls of functions that only fetch.
TW_INLINE void fetch_strip(const Conv2dGeometry& g, const Conv2dPointers& p, const Strip& strip,
                           int64_t channel, int64_t channels) {
  const bool along_channels = g.y_k == 1;
  if (!along_channels && g.y_w != 1) return;
  const int64_t size = size_of(g.dtype);
  const int64_t lines = along_channels ? strip.count : channels;
  const int64_t line = (along_channels ? g.y_w : g.y_k) * size;
  const int64_t bytes = (along_channels ? channels : strip.count) * size;
  const int64_t at = strip.image * g.y_n + strip.row * g.y_h + strip.col * g.y_w + channel * g.y_k;
  const char* y = static_cast<const char*>(p.y) + at * size;
  for (int64_t i = 0; i < lines; ++i) {
    for (int64_t offset = 0; offset < bytes; offset += kLine) {
      __builtin_prefetch(y + i * line + offset, 1, 3);
    }
  }
}

// Elements that lie `stride` apart.
template <class T>
void spread(void* to, const void* from, int64_t stride, int count) {
  for (int i = 0; i < count; ++i) static_cast<T*>(to)[i * stride] = static_cast<const T*>(from)[i];
}

// Finishes z[pixel][ldz] for the pixels of a strip and `channels` channels, by way of a transposed copy where
// y is contiguous along the image's rows. Whole vectors of z are read: ldz is a multiple of kLanes and at
// least `channels`.
inline void finish_strip(float* z, int64_t ldz, const Conv2dGeometry& g, const Conv2dPointers& p,
                         const Strip& strip, int64_t channel, int64_t channels) {
  Epilogue e = epilogue_at(g, p, strip, channel);
  if (g.y_k == 1) {
    e.out_row = g.y_w;
    finish_tile(z, ldz, strip.count, channels, e);
    return;
  }
  e.out_row = g.y_k;
  e.bias_row = e.bias_stride;
  e.bias_stride = 0;
  const int64_t residual_row = e.residual_row;
  e.residual_row = e.residual_col;
  e.residual_col = residual_row;
  for (int64_t c = 0; c < channels; c += kLanes) {
    for (int i = 0; i < strip.count; i += kLanes) {
      const int pixels = static_cast<int>(min(kLanes, strip.count - i));
      vf rows[kLanes];
      TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
        rows[lane] = lane < pixels ? load(z + (i + lane) * ldz + c) : zero();
      }
      transpose(rows);
      alignas(64) float turned[kLanes * kLanes];
      TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) store(turned + lane * kLanes, rows[lane]);
      const int lines = static_cast<int>(min(kLanes, channels - c));
      if (g.y_w == 1) {
        finish_tile(turned, kLanes, lines, pixels, advance(e, c, i));
        continue;
      }
      // Neither way contiguous, as in the gradient of a strided convolution.
      alignas(64) char dense[kLanes * kLanes * 4];
      Epilogue apart = advance(e, c, i);
      apart.out = dense;
      apart.out_row = kLanes;
      finish_tile(turned, kLanes, lines, pixels, apart);
      for (int row = 0; row < lines; ++row) {
        void* to = advance(e.out, (c + row) * g.y_k + i * g.y_w, g.dtype);
        const void* from = dense + row * kLanes * size_of(g.dtype);
        if (g.dtype == Dtype::f32) {
          spread<float>(to, from, g.y_w, pixels);
        } else {
          spread<uint16_t>(to, from, g.y_w, pixels);
        }
      }
    }
  }
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
