// The epilogue on the device: eight neighbouring columns at a time, in fp32, one rounding at the store.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "cuda/epilogue.h"
#include "cuda/platform.cuh"
#include "cuda/ptx.cuh"

namespace tilewright::cuda {

// Eight elements of y, of the residual or of the bias, as they lie in memory; 16-bit types use `low` only.
struct Eight {
  uint4 low = {0, 0, 0, 0}, high = {0, 0, 0, 0};
};

template <class T>
TILEWRIGHT_DEVICE T* advance(T* pointer, int64_t elements, DataType type) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<Byte*>(pointer) + elements * (type == DataType::f32 ? 4 : 2);
}

TILEWRIGHT_DEVICE uint32_t& word(Eight& e, int i) {
  return reinterpret_cast<uint32_t*>(&e)[i];
}

// Loads the first `count` of eight elements `stride` apart, the others as 0. `vectors`: 16-byte loads serve.
TILEWRIGHT_DEVICE Eight load_eight(const void* from, DataType type, bool vectors, int64_t stride, int count) {
  Eight e;
  if (vectors && count >= 8) {
    const uint4* vector = static_cast<const uint4*>(from);
    e.low = vector[0];
    if (type == DataType::f32) e.high = vector[1];
  } else if (type == DataType::f32) {
    const uint32_t* element = static_cast<const uint32_t*>(from);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) word(e, i) = element[i * stride];
    }
  } else {
    const uint16_t* element = static_cast<const uint16_t*>(from);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) word(e, i / 2) |= static_cast<uint32_t>(element[i * stride]) << (i % 2 * 16);
    }
  }
  return e;
}

TILEWRIGHT_DEVICE void store_eight(void* to, const Eight& from, DataType type, bool vectors, int64_t stride,
                                   int count) {
  Eight e = from;
  if (vectors && count >= 8) {
    uint4* vector = static_cast<uint4*>(to);
    vector[0] = e.low;
    if (type == DataType::f32) vector[1] = e.high;
  } else if (type == DataType::f32) {
    uint32_t* element = static_cast<uint32_t*>(to);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) element[i * stride] = word(e, i);
    }
  } else {
    uint16_t* element = static_cast<uint16_t*>(to);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) element[i * stride] = static_cast<uint16_t>(word(e, i / 2) >> (i % 2 * 16));
    }
  }
}

TILEWRIGHT_DEVICE float bf16_to_float(uint32_t bits) {
  const uint32_t shifted = bits << 16;
  float f;
  memcpy(&f, &shifted, 4);
  return f;
}

TILEWRIGHT_DEVICE float f16_to_float(uint32_t bits) {
  __half_raw raw;
  raw.x = static_cast<unsigned short>(bits);
  return __half2float(__half(raw));
}

// v += the eight elements
TILEWRIGHT_DEVICE void add_eight(float (&v)[8], const Eight& addend, DataType type) {
  Eight e = addend;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t half = word(e, i / 2) >> (i % 2 * 16) & 0xffffu;
    if (type == DataType::bf16) {
      v[i] += bf16_to_float(half);
    } else if (type == DataType::f16) {
      v[i] += f16_to_float(half);
    } else {
      float f;
      memcpy(&f, &word(e, i), 4);
      v[i] += f;
    }
  }
}

TILEWRIGHT_DEVICE Eight round_eight(const float (&v)[8], DataType type) {
  Eight e;
  if (type == DataType::f32) {
#pragma unroll
    for (int i = 0; i < 8; ++i) memcpy(&word(e, i), &v[i], 4);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (type == DataType::bf16) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        memcpy(&word(e, i), &pair, 4);
      } else {
        const __half2 pair = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
        memcpy(&word(e, i), &pair, 4);
      }
    }
  }
  return e;
}

// Within 2 ulp, and 0 where the divisor exceeds 2^126; the exact one may call a subroutine.
TILEWRIGHT_DEVICE float fast_divide(float x, float y) {
#if TILEWRIGHT_EMULATED
  return x / y;
#else
  return __fdividef(x, y);
#endif
}

// gelu by erfc, which keeps the relative error small where the result is tiny; gelu_tanh by one exponential:
// (1 + tanh u)/2 = 1/(1 + exp(-2u)). exp runs to inf for very negative z, and z/inf is the 0 wanted; for
// z = -inf it is NaN, as torch's float64 has it.
TILEWRIGHT_DEVICE void activate_eight(float (&v)[8], Activation activation) {
  if (activation == Activation::none) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float z = v[i];
    if (activation == Activation::relu) {
      v[i] = z < 0.0f ? 0.0f : z;  // a comparison with NaN is false, so NaN stays
    } else if (activation == Activation::gelu) {
      v[i] = 0.5f * z * erfcf(-0.70710678f * z);
    } else {
      const float u = activation == Activation::silu ? z : 1.5957691f * (z + 0.044715f * z * z * z);
      v[i] = fast_divide(z, 1.0f + expf(-u));
    }
  }
}

// Finishes and stores `count` of eight columns of one row, sums in v with the bias already added. Offsets
// count from e.y, e.preact.
TILEWRIGHT_DEVICE void finish_eight(const Epilogue& e, float (&v)[8], const Eight& residual, int64_t y_offset,
                                    int count) {
  if (e.residual != nullptr) add_eight(v, residual, e.residual_type);
  if (e.preact != nullptr) {
    store_eight(advance(e.preact, y_offset, e.y_type), round_eight(v, e.y_type), e.y_type, e.y_vectors,
                e.y_strides[3], count);
  }
  activate_eight(v, e.activation);
  store_eight(advance(e.y, y_offset, e.y_type), round_eight(v, e.y_type), e.y_type, e.y_vectors,
              e.y_strides[3], count);
}

// The epilogue with its pointers moved to one matrix of the batch, and to column `column` of it.
TILEWRIGHT_DEVICE Epilogue at_matrix(const Epilogue& whole, int64_t batch0, int64_t batch1, int64_t column) {
  Epilogue e = whole;
  const int64_t y = batch0 * e.y_strides[0] + batch1 * e.y_strides[1] + column * e.y_strides[3];
  e.y = advance(e.y, y, e.y_type);
  if (e.preact != nullptr) e.preact = advance(e.preact, y, e.y_type);
  if (e.bias != nullptr) {
    e.bias =
        advance(e.bias, batch0 * e.bias_strides[0] + batch1 * e.bias_strides[1] + column * e.bias_strides[2],
                e.bias_type);
  }
  if (e.residual != nullptr) {
    e.residual = advance(
        e.residual,
        batch0 * e.residual_strides[0] + batch1 * e.residual_strides[1] + column * e.residual_strides[3],
        e.residual_type);
  }
  return e;
}

// Where the rows of a tile lie: evenly apart. Another kernel brings its own (a convolution's rows are
// pixels).
struct EvenRows {
  int64_t first, y_stride, residual_stride;

  TILEWRIGHT_DEVICE int64_t y(int row) const {
    return (first + row) * y_stride;
  }
  TILEWRIGHT_DEVICE int64_t residual(int row) const {
    return (first + row) * residual_stride;
  }
};

// Floats of shared memory that one warp needs to store its 16·mi x 8·ni tile: 16 rows, eight floats apart
// from a multiple of 32 so that neither the fragments' stores nor the rows' loads meet in a bank.
template <int ni>
inline constexpr int kStagingFloats = 16 * (8 * ni + 8);

// Stores a warp's accumulators (fragments of 16 x 8, see ptx/mma.cuh). Fragments have two columns a lane; to
// move 16 bytes at a time, 16 rows go through `staging`, the warp's own shared memory:
//
//     fragments             staging, 16 rows                 lanes read and store
//     lane 4g + t:          +-----------------------+        lane = row · ni + unit (ni = 8: 4 rows at once,
//     (g, 2t) (g, 2t+1)  -> |    8·ni floats    | 8 |   ->   128 bytes of 16-bit y each)
//     (g+8, 2t) ..          +-----------------------+
//
// `row` and `column` are the warp's place in the block's tile, of which `rows` x `columns` exist. `e` points
// at the tile's first column, `map` leads to the tile's rows. The residual is fetched one step ahead.
template <int mi, int ni, class Rows>
TILEWRIGHT_DEVICE void store_warp_tile(const float (&acc)[mi][ni][4], float* staging, const Epilogue& e,
                                       const Rows& map, int row, int column, int rows, int columns) {
  static_assert(32 % ni == 0);
  constexpr int kStride = 8 * ni + 8, kRowsAtOnce = 32 / ni, kSteps = 16 / kRowsAtOnce;
  const int lane = threadIdx.x % 32;
  const int my_column = column + lane % ni * 8;
  const int count = columns - my_column;
  const int my_row = row + lane / ni;
  float bias[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (e.bias != nullptr && count > 0) {
    const Eight eight = load_eight(advance(e.bias, my_column * e.bias_strides[2], e.bias_type), e.bias_type,
                                   e.bias_vectors, e.bias_strides[2], count);
    add_eight(bias, eight, e.bias_type);
  }
  auto residual_of = [&](int at) {
    if (e.residual == nullptr || at >= rows || count <= 0) return Eight{};
    return load_eight(
        advance(e.residual, map.residual(at) + my_column * e.residual_strides[3], e.residual_type),
        e.residual_type, e.residual_vectors, e.residual_strides[3], count);
  };
  Eight next = residual_of(my_row);
  float* const write = staging + lane / 4 * kStride + lane % 4 * 2;
  // Every other four lanes read the upper half of their eight floats first: else they would meet in a bank.
  const bool swap = (lane / 4) % 2 != 0;
  const float* const read = staging + lane / ni * kStride + lane % ni * 8;
#pragma unroll 1
  for (int slab = 0; slab < mi; ++slab) {
#pragma unroll
    for (int i = 0; i < mi; ++i) {
      if (i != slab) continue;  // accumulators are registers: their index is no variable
#pragma unroll
      for (int j = 0; j < ni; ++j) {
        *reinterpret_cast<float2*>(write + j * 8) = make_float2(acc[i][j][0], acc[i][j][1]);
        *reinterpret_cast<float2*>(write + j * 8 + 8 * kStride) = make_float2(acc[i][j][2], acc[i][j][3]);
      }
    }
    ptx::sync_warp();
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      const int at = my_row + slab * 16 + step * kRowsAtOnce;
      const Eight residual = next;
      next = residual_of(at + kRowsAtOnce);
      const float* const from = read + step * kRowsAtOnce * kStride;
      const float4 x = *reinterpret_cast<const float4*>(from + (swap ? 4 : 0));
      const float4 z = *reinterpret_cast<const float4*>(from + (swap ? 0 : 4));
      float v[8] = {swap ? z.x : x.x, swap ? z.y : x.y, swap ? z.z : x.z, swap ? z.w : x.w,
                    swap ? x.x : z.x, swap ? x.y : z.y, swap ? x.z : z.z, swap ? x.w : z.w};
      if (at < rows && count > 0) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += bias[i];
        finish_eight(e, v, residual, map.y(at) + my_column * e.y_strides[3], count);
      }
    }
    ptx::sync_warp();
  }
}

}  // namespace tilewright::cuda
