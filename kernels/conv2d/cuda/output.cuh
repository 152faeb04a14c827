// Where a convolution's results go: pixel (p, q) of image n, channel k.
#pragma once

#include "conv2d/cuda/conv2d.h"
#include "cuda/epilogue.cuh"

namespace tilewright::cuda::conv {

template <class T>
inline constexpr DataType kTypeOf = std::is_same_v<T, __nv_bfloat16> ? DataType::bf16
                                    : std::is_same_v<T, __half>      ? DataType::f16
                                                                     : DataType::f32;

// The epilogue's column is the channel, its other strides are here.
struct ConvOutput {
  Epilogue epilogue;
  int64_t y_n, y_h, y_w, residual_n, residual_h, residual_w;

  TILEWRIGHT_DEVICE int64_t y(uint32_t n, int p, int q) const {
    return n * y_n + p * y_h + q * y_w;
  }

  TILEWRIGHT_DEVICE int64_t residual(uint32_t n, int p, int q) const {
    return n * residual_n + p * residual_h + q * residual_w;
  }

  // Finishes `count` of eight neighbouring channels, given their sums.
  TILEWRIGHT_DEVICE void finish(float (&sums)[8], uint32_t n, int k, int p, int q, int count) const {
    const Epilogue& e = epilogue;
    if (e.bias != nullptr) {
      const void* const bias = advance(e.bias, k * e.bias_strides[2], e.bias_type);
      add_eight(sums, load_eight(bias, e.bias_type, e.bias_vectors, e.bias_strides[2], count), e.bias_type);
    }
    Eight addend;
    if (e.residual != nullptr) {
      const int64_t at = residual(n, p, q) + k * e.residual_strides[3];
      addend = load_eight(advance(e.residual, at, e.residual_type), e.residual_type, e.residual_vectors,
                          e.residual_strides[3], count);
    }
    finish_eight(e, sums, addend, y(n, p, q) + k * e.y_strides[3], count);
  }

  TILEWRIGHT_DEVICE void finish_one(float sum, uint32_t n, int k, int p, int q) const {
    float sums[8] = {sum};
    finish(sums, n, k, p, q, 1);
  }
};

inline ConvOutput output_of(const Conv2dArguments& a) {
  ConvOutput out{};
  Epilogue& e = out.epilogue;
  e.activation = a.activation;
  e.y_type = a.dtype;
  e.bias_type = a.bias_type;
  e.residual_type = a.residual_type;
  e.bias = a.bias;
  e.residual = a.residual;
  e.y = a.y;
  e.preact = a.preact;
  e.bias_strides[2] = a.bias_stride;
  e.residual_strides[3] = a.residual_k;
  e.y_strides[3] = a.y_k;
  out.y_n = a.y_n, out.y_h = a.y_h, out.y_w = a.y_w;
  out.residual_n = a.residual_n, out.residual_h = a.residual_h, out.residual_w = a.residual_w;
  // Channels of a group begin at multiples of out_channels.
  const int64_t begins = a.groups > 1 ? a.out_channels : 0;
  const int64_t y[] = {a.batch > 1 ? a.y_n : 0, a.out_height > 1 ? a.y_h : 0, a.out_width > 1 ? a.y_w : 0,
                       begins};
  const int64_t residual[] = {a.residual_n, a.residual_h, a.residual_w, begins};
  e.y_vectors = is_vector(a.y, a.dtype, a.y_k, y, 4) && reinterpret_cast<uintptr_t>(a.preact) % 16 == 0;
  e.bias_vectors = is_vector(a.bias, a.bias_type, a.bias_stride, &begins, 1);
  e.residual_vectors = is_vector(a.residual, a.residual_type, a.residual_k, residual, 4);
  return out;
}

}  // namespace tilewright::cuda::conv
