// Convolution as an implicit product on Hopper: roles, ring and stores are those of matmul
// (matmul/cuda/sm90.cuh), only the producer differs. It has the TMA walk over pixels (im2col mode) in place
// of a matrix's rows:
//
//     tile of A   block_m pixels of y, one 128-byte row of channels each, at one tap (r, s)
//     im2col      from the first pixel's corner (w, h, n) = (q·stride - left, p·stride - top, n) on, in steps
//     of the
//                 stride, to the end of the bounding box, then the next row, then the next image; every pixel
//                 moved by (s·dilation_w, r·dilation_h). The bounding box holds the corners of all windows:
//
//                        -left          (Q - 1)·stride - left
//                          +--------------------+  -top
//                          |  corners           |
//                          +--------------------+  (P - 1)·stride - top
//     tile of B   block_n output channels of the weight, the same channels and tap
//
// k runs over taps and, within each, over blocks of 64 channels (32 of fp32); channels beyond the last are
// read as zeros in both operands.
#pragma once

#include "cuda/fast_divide.h"
#include "matmul/cuda/sm90.cuh"

namespace tilewright::cuda::conv {

struct Sm90Conv {
  Sm90Problem product;  // m pixels of the batch, n output channels, k in whole tiles
  int channels, taps_h, taps_w;
  int stride_h, stride_w, top, left, dilation_h, dilation_w;
  FastDivisor by_pixels, by_out_width;
};

template <class Tile>
TILEWRIGHT_DEVICE void produce(const Sm90Conv& c, const TensorMap* x, const TensorMap* weight,
                               unsigned char* stages, const Sm90Barriers& barriers) {
  const Sm90Problem& p = c.product;
  const int rank = rank_of(p);
  const int x_parts = Tile::kSharesB ? 1 : p.cluster, weight_parts = Tile::kSharesB ? p.cluster : 1;
  const int part = rank % x_parts, first = Tile::kBlockM / x_parts * part;
  const uint16_t everyone = static_cast<uint16_t>((1 << x_parts) - 1);
  Ring<Tile::kStages> ring;
#pragma unroll 1
  for (int index = blockIdx.x / p.cluster; index < p.count; index += gridDim.x / p.cluster) {
    const TilePlace at = place<Tile>(p, index, rank);
    // Beyond the last pixel n is beyond the last image, where everything is zero.
    const uint32_t row = at.row + first, n = c.by_pixels.divide(row), pixel = c.by_pixels.remainder(row, n);
    const uint32_t out_row = c.by_out_width.divide(pixel),
                   out_column = c.by_out_width.remainder(pixel, out_row);
    const int h = static_cast<int>(out_row) * c.stride_h - c.top;
    const int w = static_cast<int>(out_column) * c.stride_w - c.left;
#pragma unroll 1
    for (int r = 0; r < c.taps_h; ++r) {
#pragma unroll 1
      for (int s = 0; s < c.taps_w; ++s) {
        const uint16_t down = static_cast<uint16_t>(r * c.dilation_h),
                       right = static_cast<uint16_t>(s * c.dilation_w);
#pragma unroll 1
        for (int channel = 0; channel < c.channels; channel += Tile::kBlockK) {
          ptx::Mbarrier* const full = barriers.full + ring.stage;
          unsigned char* const stage = stages + ring.stage * Tile::kStageBytes;
          ptx::mbarrier_wait(barriers.empty + ring.stage, ring.parity ^ 1);
          ptx::mbarrier_expect_bytes(full, Tile::kStageBytes);
          unsigned char* const to = stage + first * Tile::kRowBytes;
          if (x_parts > 1) {
            ptx::tma_load_im2col_multicast(to, x, full, everyone, channel, w, h, static_cast<int>(n), right,
                                           down);
          } else {
            ptx::tma_load_im2col(to, x, full, channel, w, h, static_cast<int>(n), right, down);
          }
          load_operand<false, Tile::kBlockN, Tile::kBlockK>(stage + Tile::kABytes, weight, full, at.column,
                                                            channel, s, r, rank % weight_parts, weight_parts);
          ring.advance();
        }
      }
    }
  }
}

template <class Tile>
TILEWRIGHT_KERNEL void __launch_bounds__(Tile::kThreads, 1)
    sm90_conv2d(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight,
                const __grid_constant__ TensorMap y, const __grid_constant__ Sm90Conv c, const Epilogue e) {
  run_roles<Tile>(c.product, e, &y, [&](unsigned char* stages, const Sm90Barriers& barriers) {
    ptx::tma_prefetch(&x);
    ptx::tma_prefetch(&weight);
    produce<Tile>(c, &x, &weight, stages, barriers);
  });
}

}  // namespace tilewright::cuda::conv
