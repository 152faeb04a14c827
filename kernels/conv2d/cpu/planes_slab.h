// Copies the rows of one channel that a block of output pixels needs.
#pragma once

#include "conv2d/cpu/conv2d.h"
#include "cpu/pack.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

#if defined(__AVX512F__)
constexpr vi kEven = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
#elif defined(__AVX2__)
constexpr vi kEven = {0, 2, 4, 6, 8, 10, 12, 14};
#else
constexpr vi kEven = {0, 2, 4, 6};
#endif

// Which lanes of a vector lie in a row of x; the others become zero. Loads with a mask would do it in one
// instruction, but on Zen 5 they take twice as long where x comes from the last-level cache.
struct Inside {
  int first, last;
  vi mask;

  Inside() = default;

  // The vector begins at column `x`.
  Inside(int64_t x, int64_t width) {
    first = static_cast<int>(min(kLanes, max(0, -x)));
    last = static_cast<int>(max(first, min(kLanes, width - x)));
    for (int lane = 0; lane < kLanes; ++lane) mask[lane] = lane >= first && lane < last ? -1 : 0;
  }

  // `whole`: all kLanes values may be read.
  template <class T>
  TW_INLINE vf load(const T* p, bool whole) const {
    if (whole) return (vf)((vi)tilewright::TILEWRIGHT_ISA_NAMESPACE::load(p) & mask);
    T lane[kLanes] = {};
    for (int i = first; i < last; ++i) lane[i] = p[i];
    return tilewright::TILEWRIGHT_ISA_NAMESPACE::load(lane);
  }
};

constexpr int64_t kMostVectors = 64;  // of a slab's row whose masks are made beforehand

// Rows of x as fp32, with zeros where the padding is: phase b of column `col` is column col·stride + b - left
// of the image. Distances are in floats.
struct PlaneSlab {
  int64_t phases;
  int64_t phase, row_floats;  // from a phase to the next, and from a row
  bool even;                  // rows are made of whole vectors of x

  PlaneSlab(const Conv2dGeometry& g, int64_t columns) {
    phases = min(g.stride_w, (g.kernel_w - 1) * g.dilation_w + 1);
    phase = round_up(columns + (g.kernel_w - 1) * g.dilation_w / g.stride_w, kLanes);
    row_floats = phases * phase;
    even = g.x_w == 1 && phases == g.stride_w && phases <= 2 && row_floats <= kMostVectors * kLanes;
  }

  // The masks of a row's vectors.
  void write_masks(Inside* inside, const Conv2dGeometry& g, int64_t left) const {
    for (int64_t v = 0; even && v < row_floats / kLanes; ++v) inside[v] = Inside(v * kLanes - left, g.width);
  }

  // Fills the slab of rows y … y + rows - 1 of a channel whose pixel (0, 0) is at `image`; x lies within
  // [lowest, highest).
  template <class T>
  void fill(float* slab, const T* image, const Conv2dGeometry& g, int64_t y, int64_t left, int64_t rows,
            const Inside* inside, const T* lowest, const T* highest) const {
    const int64_t begin = min(rows, max(0, -y)), end = max(begin, min(rows, g.height - y));
    const auto clear = [&](int64_t from, int64_t to) {
      __builtin_memset(slab + from * row_floats, 0, static_cast<size_t>((to - from) * row_floats) * 4);
    };
    clear(0, begin);
    clear(end, rows);
    const int64_t vectors = row_floats / kLanes;
    for (int64_t row = begin; row < end; ++row) {
      const T* from = image + (y + row) * g.x_h - left * g.x_w;
      float* to = slab + row * row_floats;
      const bool whole = from - lowest >= 0 && highest - from >= vectors * kLanes;
      if (even && phases == 1) {
        for (int64_t v = 0; v < vectors; ++v)
          store(to + v * kLanes, inside[v].load(from + v * kLanes, whole));
      } else if (even) {
        for (int64_t v = 0; v < vectors; v += 2, to += kLanes) {
          const vf low = inside[v].load(from + v * kLanes, whole);
          const vf high = inside[v + 1].load(from + (v + 1) * kLanes, whole);
          store(to, __builtin_shuffle(low, high, kEven));
          store(to + phase, __builtin_shuffle(low, high, kEven + 1));
        }
      } else {
        for (int64_t b = 0; b < phases; ++b) {
          for (int64_t col = 0; col < phase; ++col) {
            const int64_t x = col * g.stride_w + b;
            *to++ = x >= left && x - left < g.width ? load_part(from + x * g.x_w, 1)[0] : 0.0f;
          }
        }
      }
    }
  }
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
