// From sums in a warpgroup's registers to y, in one of two ways:
//
//   store_bulk     bias and relu in registers, rounded, stmatrix into swizzled slabs of 64 rows x 128 bytes,
//                  which the TMA writes while the next tile is multiplied. No barrier but the warpgroup's.
//   store_rows     everything else: through shared memory to rows of eight columns a lane, where residual,
//                  activation, pre-activation and any type, stride and alignment of y are dealt with.
#pragma once

#include <type_traits>

#include "cuda/epilogue.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/tma.cuh"
#include "matmul/cuda/sm90_tile.cuh"

namespace tilewright::cuda {

template <class Tile>
using Sm90Sums = float[Tile::kParts][Tile::kBlockN / 2];

// What a consumer warpgroup stores with. `thread` counts in the warpgroup.
struct Sm90Store {
  unsigned char* slabs;
  float* bias;
  int thread, group;
  int turn = 0;  // the slab that is next

  TILEWRIGHT_DEVICE void sync() const {
    ptx::barrier_sync(1 + group, 128);
  }
};

// The bias of a tile's columns, one or two for each thread: fetched as it lies in memory before the main
// loop, so that its latency passes meanwhile, and written to shared memory as fp32 after.
template <class Tile>
struct Sm90Bias {
  static constexpr int kEach = (Tile::kBlockN + 127) / 128;
  Eight element[kEach];  // the first of eight

  TILEWRIGHT_DEVICE void fetch(const Sm90Store& store, const Sm90Problem& p, const Epilogue& e,
                               const TilePlace& at) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int column = at.column + store.thread + i * 128;
      const bool exists = e.bias != nullptr && store.thread + i * 128 < Tile::kBlockN && column < p.n;
      const int64_t offset =
          at.batch0 * e.bias_strides[0] + at.batch1 * e.bias_strides[1] + column * e.bias_strides[2];
      element[i] =
          exists ? load_eight(advance(e.bias, offset, e.bias_type), e.bias_type, false, 0, 1) : Eight{};
    }
  }

  // The last reader of what was there before has passed a barrier since.
  TILEWRIGHT_DEVICE void stage(const Sm90Store& store, const Epilogue& e) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      float value[8] = {};
      add_eight(value, element[i], e.bias_type);
      if (store.thread + i * 128 < Tile::kBlockN) store.bias[store.thread + i * 128] = value[0];
    }
  }
};

// Two neighbouring columns' sums, finished.
TILEWRIGHT_DEVICE float2 finish_pair(float x, float y, const float* bias, bool relu) {
  const float2 addend = *reinterpret_cast<const float2*>(bias);
  x += addend.x;
  y += addend.y;
  if (relu) {
    x = x < 0.0f ? 0.0f : x;  // NaN stays
    y = y < 0.0f ? 0.0f : y;
  }
  return make_float2(x, y);
}

template <class Y>
TILEWRIGHT_DEVICE uint32_t pack_pair(float2 v) {
  uint32_t bits;
  if constexpr (std::is_same_v<Y, __half>) {
    const __half2 pair = __floats2half2_rn(v.x, v.y);
    memcpy(&bits, &pair, 4);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(v.x, v.y);
    memcpy(&bits, &pair, 4);
  }
  return bits;
}

// 64 x 64 sums as 16-bit values into a slab: chunk c of row r lies at chunk c ^ r % 8 (Swizzle::b128). One
// stmatrix takes two blocks of 8 columns of a warp's 16 rows; its eight rows of 16 bytes fall into 32 banks.
template <class Y>
TILEWRIGHT_DEVICE void write_slab(unsigned char* slab, const float* sums, const float* bias, bool relu,
                                  int thread) {
  const int lane = thread % 32;
  const int row = thread / 32 * 16 + lane / 8 % 2 * 8 + lane % 8;
  unsigned char* const line = slab + row * 128;
  const float* const my_bias = bias + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    uint32_t r[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const pair = sums + 4 * (j + i / 2) + 2 * (i % 2);
      r[i] = pack_pair<Y>(finish_pair(pair[0], pair[1], my_bias + 8 * (j + i / 2), relu));
    }
    ptx::stmatrix_x4(line + ((j + lane / 16) ^ lane % 8) * 16, r);
  }
}

// 64 x 32 sums as floats. Odd rows write the blocks of 8 columns in another order than even ones: four rows
// of 32 bytes then fall into 32 banks.
template <>
TILEWRIGHT_DEVICE void write_slab<float>(unsigned char* slab, const float* sums, const float* bias, bool relu,
                                         int thread) {
  const int lane = thread % 32;
  const int row = lane / 4;  // mod 8
  const bool odd = row % 2 != 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    unsigned char* const line = slab + (thread / 32 * 16 + half * 8 + row) * 128 + lane % 2 * 8;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int block = odd ? j ^ 2 : j;
      const float* const even_pair = sums + 4 * j + 2 * half;
      const float* const odd_pair = sums + 4 * (j ^ 2) + 2 * half;
      const float2 v = finish_pair(odd ? odd_pair[0] : even_pair[0], odd ? odd_pair[1] : even_pair[1],
                                   bias + 8 * block + lane % 4 * 2, relu);
      *reinterpret_cast<float2*>(line + ((2 * block + lane % 4 / 2) ^ row) * 16) = v;
    }
  }
}

template <class Y, class Tile>
TILEWRIGHT_DEVICE void store_bulk(const Sm90Sums<Tile>& sums, Sm90Store& store, const Sm90Problem& p,
                                  bool relu, const TensorMap* y, const TilePlace& at) {
  constexpr int kColumns = Tile::kRowBytes / static_cast<int>(sizeof(Y));
#pragma unroll
  for (int part = 0; part < Tile::kParts; ++part) {
#pragma unroll
    for (int s = 0; s < Tile::kBlockN / kColumns; ++s) {
      const int row = at.row + part * 64, column = at.column + s * kColumns;
      if (row >= p.m || column >= p.n) continue;
      unsigned char* const slab = store.slabs + store.turn * Tile::kSlabBytes;
      // Thread 0 started the stores, so it alone can wait: for all but the latest, which reads the other
      // slab.
      if (store.thread == 0) ptx::tma_store_wait_read<1>();
      store.sync();
      write_slab<Y>(slab, &sums[part][s * kColumns / 2], store.bias + s * kColumns, relu, store.thread);
      ptx::fence_async_proxy();
      store.sync();
      if (store.thread == 0) {
        ptx::tma_store(y, slab, column, row, at.batch1, at.batch0);
        ptx::tma_store_commit();
      }
      store.turn ^= 1;
    }
  }
}

// Each warp by itself: 16 rows x 32 columns at a time, rows 40 floats apart, which keeps both sides free of
// bank conflicts (a fragment's store: four rows of eight floats; a row's load: see store_warp_tile).
template <class Tile>
TILEWRIGHT_DEVICE void store_rows(const Sm90Sums<Tile>& sums, const Sm90Store& store, const Sm90Problem& p,
                                  const Epilogue& whole, const TilePlace& at) {
  constexpr int kStride = 40, kColumns = 32, kAcross = Tile::kBlockN / kColumns;
  const int lane = store.thread % 32, warp = store.thread / 32;
  float* const staging = reinterpret_cast<float*>(store.slabs) + warp * 16 * kStride;
  float* const write = staging + lane / 4 * kStride + lane % 4 * 2;
  const float* const read = staging + lane / 4 * kStride + lane % 4 * 8;
  const bool swap = lane / 4 % 2 != 0;
  const Epilogue e = at_matrix(whole, at.batch0, at.batch1, at.column + lane % 4 * 8);
  const int first = at.row + warp * 16 + lane / 4;
  // The residual of two rows, eight apart, of the slab after this one: its latency passes meanwhile.
  auto residual_of = [&](int slab, int step) {
    const int row = first + slab / kAcross * 64 + step * 8;
    const int column = slab % kAcross * kColumns;
    const int count = p.n - at.column - lane % 4 * 8 - column;
    if (e.residual == nullptr || slab >= Tile::kParts * kAcross || row >= p.m || count <= 0) return Eight{};
    return load_eight(
        advance(e.residual, row * e.residual_strides[2] + column * e.residual_strides[3], e.residual_type),
        e.residual_type, e.residual_vectors, e.residual_strides[3], count);
  };
  Eight next[2] = {residual_of(0, 0), residual_of(0, 1)};
#pragma unroll 1
  for (int slab = 0; slab < Tile::kParts * kAcross; ++slab) {
#pragma unroll
    for (int i = 0; i < Tile::kParts * kAcross; ++i) {
      if (i != slab) continue;  // sums are registers: their index is no variable
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        const float* const d = &sums[i / kAcross][i % kAcross * kColumns / 2 + 4 * j];
        *reinterpret_cast<float2*>(write + j * 8) = make_float2(d[0], d[1]);
        *reinterpret_cast<float2*>(write + j * 8 + 8 * kStride) = make_float2(d[2], d[3]);
      }
    }
    ptx::sync_warp();
    const int column = slab % kAcross * kColumns;
    const int count = p.n - at.column - lane % 4 * 8 - column;
    const Eight residual[2] = {next[0], next[1]};
    next[0] = residual_of(slab + 1, 0);
    next[1] = residual_of(slab + 1, 1);
    Eight bias;
    if (e.bias != nullptr && count > 0) {
      bias = load_eight(advance(e.bias, column * e.bias_strides[2], e.bias_type), e.bias_type, e.bias_vectors,
                        e.bias_strides[2], count);
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const int row = first + slab / kAcross * 64 + step * 8;
      const float* const from = read + step * 8 * kStride;
      const float4 x = *reinterpret_cast<const float4*>(from + (swap ? 4 : 0));
      const float4 z = *reinterpret_cast<const float4*>(from + (swap ? 0 : 4));
      float v[8] = {swap ? z.x : x.x, swap ? z.y : x.y, swap ? z.z : x.z, swap ? z.w : x.w,
                    swap ? x.x : z.x, swap ? x.y : z.y, swap ? x.z : z.z, swap ? x.w : z.w};
      if (row < p.m && count > 0) {
        if (e.bias != nullptr) add_eight(v, bias, e.bias_type);
        finish_eight(e, v, residual[step], row * e.y_strides[2] + column * e.y_strides[3], count);
      }
    }
    ptx::sync_warp();
  }
}

template <class Tile>
TILEWRIGHT_DEVICE void store_tile(const Sm90Sums<Tile>& sums, Sm90Store& store, const Sm90Problem& p,
                                  const Epilogue& e, const Sm90Bias<Tile>& bias, const TensorMap* y,
                                  const TilePlace& at) {
  using T = typename Tile::Element;
  using Y = std::conditional_t<std::is_same_v<T, Tf32>, float, T>;
  if (!p.bulk) {
    store_rows<Tile>(sums, store, p, e, at);
    return;
  }
  bias.stage(store, e);
  const bool relu = e.activation == Activation::relu;
  if constexpr (!std::is_same_v<Y, float>) {
    if (e.y_type != DataType::f32) {
      store_bulk<Y, Tile>(sums, store, p, relu, y, at);
      return;
    }
  }
  store_bulk<float, Tile>(sums, store, p, relu, y, at);
}

}  // namespace tilewright::cuda
