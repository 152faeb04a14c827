// The part of x that the windows of some output pixels cover, copied so that its pixels lie evenly: channels
// side by side, in what the kernel multiplies, zeros where the padding is.
#pragma once

#include "conv2d/cpu/conv2d.h"
#include "cpu/pack.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

struct Slab {
  // A kernel of one row (or column) needs but the rows (columns) that outputs are made of: the slab skips the
  // others.
  int64_t step_h, step_w;      // rows and columns of x from one of the slab to the next
  int64_t stride_h, stride_w;  // rows and columns of the slab from one output pixel to the next
  int64_t around_h, around_w;  // rows and columns of the window, less one
  int64_t channels;            // of x, in a pixel
  int64_t pixel_units, row_units;
  bool even;  // nothing lies between the pixels of a row,
  bool flat;  // nor between the channels of its last step

  Slab() = default;

  // `columns` are output pixels of a row; `unit` is the size of what is stored for `depth` channels. A pixel
  // takes a multiple of `whole` units.
  Slab(const Conv2dGeometry& g, int64_t columns, int64_t channels_, int64_t depth, int64_t unit,
       int64_t whole = 1) {
    step_h = g.kernel_h == 1 ? g.stride_h : 1;
    // Columns that lie side by side are read in vectors, and cost less to take along than to pick out.
    const bool picks_columns = g.kernel_w == 1 && !(g.x_w == 1 && g.x_c != 1 && g.stride_w <= 4);
    step_w = picks_columns ? g.stride_w : 1;
    stride_h = g.kernel_h == 1 ? 1 : g.stride_h;
    stride_w = picks_columns ? 1 : g.stride_w;
    around_h = (g.kernel_h - 1) * g.dilation_h;
    around_w = (g.kernel_w - 1) * g.dilation_w;
    channels = channels_;
    const int64_t units = ceil_div(channels, depth);
    pixel_units = round_up(units, whole);
    // The pixels of a tile would otherwise fall into the same few sets of L1.
    if (pixel_units * stride_w * unit % 512 == 0) pixel_units += kLine / unit;
    even = pixel_units == units;
    flat = even && channels % depth == 0;
    row_units = covered_w(columns) * pixel_units;
  }

  // Rows and columns of the slab that so many output pixels cover.
  int64_t covered_h(int64_t rows) const {
    return (rows - 1) * stride_h + around_h + 1;
  }

  int64_t covered_w(int64_t columns) const {
    return (columns - 1) * stride_w + around_w + 1;
  }

  // Fills the slab of the output pixels (y0, x0) … with `rows` rows and `columns` columns; `x` is the first
  // of the channels in the image's pixel (0, 0).
  template <class Unit, class T>
  void fill(Unit* slab, const T* x, const Conv2dGeometry& g, int64_t y0, int64_t x0, int64_t rows,
            int64_t columns) const {
    const int64_t slab_h = covered_h(rows), slab_w = covered_w(columns);
    const int64_t top = y0 * g.stride_h - g.top, left = x0 * g.stride_w - g.left;
    // Columns of the slab that lie within x.
    const int64_t begin = min(slab_w, left >= 0 ? 0 : ceil_div(-left, step_w));
    const int64_t inside = g.width - left;
    const int64_t end = max(begin, min(slab_w, inside <= 0 ? 0 : ceil_div(inside, step_w)));
    // Rows that follow each other on both sides, without a border between them, are one.
    if (begin == 0 && end == slab_w && step_h == 1 && g.x_h == slab_w * step_w * g.x_w &&
        row_units == slab_w * pixel_units && top >= 0 && top + slab_h <= g.height) {
      copy(slab, x + top * g.x_h + left * g.x_w, g, slab_h * slab_w);
      return;
    }
    for (int64_t row = 0; row < slab_h; ++row) {
      const int64_t iy = top + row * step_h;
      Unit* to = slab + row * row_units;
      if (iy < 0 || iy >= g.height) {
        clear(to, slab_w);
        continue;
      }
      clear(to, begin);
      copy(to + begin * pixel_units, x + iy * g.x_h + (left + begin * step_w) * g.x_w, g, end - begin);
      clear(to + end * pixel_units, slab_w - end);
    }
  }

 private:
  template <class Unit>
  void clear(Unit* to, int64_t pixels) const {
    __builtin_memset(to, 0, static_cast<size_t>(pixels * pixel_units) * sizeof(Unit));
  }

  template <class Unit, class T>
  void copy(Unit* to, const T* from, const Conv2dGeometry& g, int64_t pixels) const {
    const int64_t step = step_w * g.x_w;
    if (flat && g.x_c == 1 && step == channels) {
      pack_rows(to, 0, from, 0, 1, 1, pixels * channels);
    } else {
      pack_rows(to, pixel_units, from, step, g.x_c, pixels, channels);
    }
  }
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
