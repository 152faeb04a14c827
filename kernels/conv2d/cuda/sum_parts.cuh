// The second half of a split sum: parts are added in ascending order, so that the bits are the same on every
// run, and then comes the epilogue.
#pragma once

#include "conv2d/cuda/output.cuh"
#include "cuda/fast_divide.h"

namespace tilewright::cuda::conv {

struct SumParts {
  const float* parts;  // count × rows × channels
  int count;
  uint32_t rows, channels;
  bool planes, vectors;  // vectors: every eighth channel begins at a multiple of 16 bytes
  FastDivisor by_rows, by_octets, by_pixels, by_out_width;
  ConvOutput output;
};

inline constexpr int kSumThreads = 128;

// A thread finishes eight channels of a pixel. Threads that follow each other have neighbouring channels, or
// neighbouring pixels where images lie plane by plane.
template <int = 0>  // a template, so that every translation unit may have it
TILEWRIGHT_KERNEL void __launch_bounds__(kSumThreads) sum_parts(const __grid_constant__ SumParts s) {
  const uint32_t index = blockIdx.x * kSumThreads + threadIdx.x, octets = (s.channels + 7) / 8;
  uint32_t row, octet;
  if (s.planes) {
    octet = s.by_rows.divide(index);
    row = s.by_rows.remainder(index, octet);
  } else {
    row = s.by_octets.divide(index);
    octet = s.by_octets.remainder(index, row);
  }
  if (row >= s.rows || octet >= octets) return;
  const int k = static_cast<int>(octet) * 8, count = static_cast<int>(s.channels) - k;
  const int64_t part_size = static_cast<int64_t>(s.rows) * s.channels;
  const float* from = s.parts + static_cast<int64_t>(row) * s.channels + k;
  float sums[8] = {};
  for (int part = 0; part < s.count; ++part) {
    add_eight(sums, load_eight(from, DataType::f32, s.vectors, 1, count), DataType::f32);
    from += part_size;
  }
  const uint32_t n = s.by_pixels.divide(row), pixel = s.by_pixels.remainder(row, n),
                 p = s.by_out_width.divide(pixel);
  const int q = static_cast<int>(s.by_out_width.remainder(pixel, p));
  s.output.finish(sums, n, k, static_cast<int>(p), q, count);
}

}  // namespace tilewright::cuda::conv
