// The gradient of a convolution's weight: a sum of outer products over all output pixels.
//
//   dw[k, r, s, c] = sum over pixels of dy[pixel][k] · x[window of the pixel at (r, s)][c]
//
// A task owns block_n output channels and block_c input channels of dw, and passes over the pixels block_h
// rows of output images at a time. For each such block it copies its channels of dy, and of the part of x
// that the windows cover (see slab.h), and lets every register tile of its dw take up the block's pixels:
//
//                    x: two vectors of input channels of the pixel's window at (r, s)
//   dy: a scalar  +--------+--------+
//   per output    |  acc   |  acc   |   the tile stays in registers for all pixels of the block, then waits
//   in channel,      +--------+--------+   `sums` for the next broadcast     |  acc   |  acc   |
//                 +--------+--------+
//
// Where there are too few tasks for the threads, the pixels are shared out as well, in `parts` that the
// config names. In the end each element is the sum of its parts in their order, so threads decide no bit of
// the result.
//
// Images with a handful of channels would leave most of a vector empty: there a row of the window is taken as
// one run of kernel_w · channels values, which lie side by side in the slab.
#include "conv2d/cpu/slab.h"
#include "cpu/arithmetic.h"
#include "cpu/epilogue.h"
#include "cpu/threads.h"
#include "instances.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

namespace {

// What a tile is given; strides in bytes.
struct OuterArguments {
  const int64_t* dy_rows;  // where each image row of the block begins
  const int64_t* x_rows;
  int64_t rows, pixels;  // of a row
  const char* dy;        // the tile's first output channel
  int64_t dy_pixel;
  const char* x;  // the tile's first input channel, at its position of the window
  int64_t x_pixel;
  float* sums;  // [kRows][kVectors·kLanes], sums_row values apart
  int64_t sums_row;
  bool accumulate;
};

template <int kRows, int kVectors>
void outer_tile(const OuterArguments& t) {
  vf acc[kRows][kVectors];
  TW_UNROLL for (int i = 0; i < kRows; ++i) {
    TW_UNROLL for (int j = 0; j < kVectors; ++j) {
      acc[i][j] = t.accumulate ? load(t.sums + i * t.sums_row + j * kLanes) : zero();
    }
  }
  for (int64_t row = 0; row < t.rows; ++row) {
    const char* dy = t.dy + t.dy_rows[row];
    const char* x = t.x + t.x_rows[row];
    for (int64_t pixel = 0; pixel < t.pixels; ++pixel) {
      vf values[kVectors];
      TW_UNROLL for (int j = 0; j < kVectors; ++j) {
        values[j] = load(reinterpret_cast<const float*>(x) + j * kLanes);
      }
      TW_UNROLL for (int i = 0; i < kRows; ++i) {
        const vf scalar = broadcast(reinterpret_cast<const float*>(dy)[i]);
        TW_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(scalar, values[j], acc[i][j]);
      }
      dy += t.dy_pixel;
      x += t.x_pixel;
    }
  }
  TW_UNROLL for (int i = 0; i < kRows; ++i) {
    TW_UNROLL for (int j = 0; j < kVectors; ++j) store(t.sums + i * t.sums_row + j * kLanes, acc[i][j]);
  }
}

using OuterKernel = void (*)(const OuterArguments&);

struct OuterTable {
  OuterKernel at[kMaxRows + 1][kPanelVectors + 1] = {};

  constexpr OuterTable() {
    fill<1>();
  }

 private:
  template <int kRows>
  constexpr void fill() {
    at[kRows][1] = outer_tile<kRows, 1>;
    at[kRows][2] = outer_tile<kRows, 2>;
    if constexpr (kRows < kMaxRows) fill<kRows + 1>();
  }
};

inline constexpr OuterTable kOuter{};

// Sizes of what a launch works with.
struct Layout {
  bool merged;                  // a row of the window counts as its channels
  int64_t channels, positions;  // of one group: values that lie side by side, and how often
  int64_t positions_w;
  int64_t block_c, chunks_c, block_k, chunks_k;
  int64_t block_rows, blocks;  // rows of output images, over all images
  Slab slab;
  int64_t dy_pixel, x_bytes, dy_bytes;
  int64_t row_values;   // of one output channel and position in `sums`
  int64_t k_values;     // of one output channel
  int64_t part_values;  // of one part
  int64_t tasks, offsets_bytes;

  explicit Layout(const Conv2dGeometry& g)
      : merged(g.kernel_w > 1 && g.dilation_w == 1 && g.in_channels < kLanes &&
               Slab(g, 1, g.in_channels, 1, sizeof(float)).even),
        channels(merged ? g.kernel_w * g.in_channels : g.in_channels),
        positions(merged ? g.kernel_h : g.kernel_h * g.kernel_w),
        positions_w(merged ? 1 : g.kernel_w),
        block_c(merged ? channels : min(round_up(g.block_c, kPanel), channels)),
        slab(g, g.out_width, merged ? g.in_channels : block_c, 1, sizeof(float)) {
    chunks_c = ceil_div(channels, block_c);
    block_k = min(round_up(g.block_n, kMaxRows), g.out_channels);
    chunks_k = ceil_div(g.out_channels, block_k);
    const int64_t rows = g.batch * g.out_height;
    block_rows = min(g.block_h, rows);
    blocks = ceil_div(rows, block_rows);
    // Every image that a block has rows of brings the surroundings of its windows along.
    const int64_t images = min(block_rows, ceil_div(block_rows, g.out_height) + 1);
    const int64_t slab_rows = block_rows * slab.stride_h + images * (slab.around_h + 1);
    // Whole vectors are read of a pixel's last channels.
    x_bytes = round_up((slab_rows * slab.row_units + kPanel) * 4, kLine) + kApart;
    dy_pixel = block_k % 128 == 0 ? block_k + kLanes : block_k;
    dy_bytes = round_up((block_rows * g.out_width * dy_pixel + kLanes) * 4, kLine) + kApart;
    row_values = round_up(channels, kLanes);
    k_values = positions * row_values;
    part_values = g.groups * g.out_channels * k_values;
    tasks = g.parts * g.groups * chunks_k * chunks_c;
    offsets_bytes = 2 * round_up(block_rows * 8, kLine);
  }

  int64_t sums_bytes(const Conv2dGeometry& g) const {
    return round_up(g.parts * part_values * 4, kLine) + kApart;
  }

  int64_t thread_bytes() const {
    return x_bytes + dy_bytes + offsets_bytes;
  }

  int threads(const Conv2dGeometry& g) const {
    return static_cast<int>(max(1, min(g.threads, max(tasks, g.groups * g.out_channels))));
  }
};

template <class T>
struct Worker {
  const Conv2dGeometry& g;
  const Conv2dPointers& p;
  const Layout& layout;
  float* sums;
  float* x;
  float* dy;
  int64_t* x_rows;
  int64_t* dy_rows;

  void run(int64_t task) {
    const int64_t chunk_c = task % layout.chunks_c;
    task /= layout.chunks_c;
    const int64_t chunk_k = task % layout.chunks_k;
    task /= layout.chunks_k;
    const int64_t group = task % g.groups, part = task / g.groups;
    const int64_t c0 = chunk_c * layout.block_c, c1 = min(c0 + layout.block_c, layout.channels);
    const int64_t k0 = share(g.out_channels, layout.chunks_k, chunk_k);
    const int64_t k1 = share(g.out_channels, layout.chunks_k, chunk_k + 1);
    const int64_t first = share(layout.blocks, g.parts, part), last = share(layout.blocks, g.parts, part + 1);
    float* own = sums + part * layout.part_values + (group * g.out_channels + k0) * layout.k_values + c0;
    for (int64_t block = first; block < last; ++block) {
      const int64_t rows = read_block(block, group, c0, c1 - c0, k0, k1 - k0);
      multiply(own, rows, c1 - c0, k1 - k0, block > first);
    }
    if (first == last) clear(own, c1 - c0, k1 - k0);
  }

  // dw of the output channels k of all groups, in order.
  void write(int64_t k) {
    const float* from = sums + k * layout.k_values;
    const int64_t group = k / g.out_channels;
    T* to = static_cast<T*>(p.y) + group * g.weight_g + k % g.out_channels * g.weight_k;
    for (int64_t r = 0; r < g.kernel_h; ++r) {
      for (int64_t s = 0; s < layout.positions_w; ++s) {
        const int64_t position = r * layout.positions_w + s;
        T* at = to + r * g.weight_r + s * g.weight_s;
        for (int64_t c = 0; c < layout.channels; c += kLanes) {
          const float* first = from + position * layout.row_values + c;
          vf total = load(first);
          for (int64_t part = 1; part < g.parts; ++part) total += load(first + part * layout.part_values);
          const int count = static_cast<int>(min(kLanes, layout.channels - c));
          if (g.weight_c == 1 && !layout.merged) {
            store_upto(at + c, total, count);
          } else {
            scatter(at, total, c, count);
          }
        }
      }
    }
  }

 private:
  // Copies the block's rows of dy and x, channels k0 … and c0 …; returns how many rows there are.
  int64_t read_block(int64_t block, int64_t group, int64_t c0, int64_t channels, int64_t k0,
                     int64_t outputs) {
    const int64_t all = g.batch * g.out_height;
    const int64_t begin = share(all, layout.blocks, block), end = share(all, layout.blocks, block + 1);
    const T* x_from = static_cast<const T*>(p.x) + (group * g.in_channels + (layout.merged ? 0 : c0)) * g.x_c;
    const T* dy_from = static_cast<const T*>(p.weight) + (group * g.out_channels + k0) * g.y_k;
    Slab slab = layout.slab;
    slab.channels = layout.merged ? g.in_channels : channels;
    slab.flat = slab.flat && slab.channels == layout.slab.channels;
    int64_t slab_row = 0;
    for (int64_t at = begin; at < end;) {
      const int64_t image = at / g.out_height, y0 = at % g.out_height;
      const int64_t rows = min(end - at, g.out_height - y0);
      slab.fill(x + slab_row * slab.row_units, x_from + image * g.x_n, g, y0, 0, rows, g.out_width);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t index = at - begin + i;
        x_rows[index] = (slab_row + i * slab.stride_h) * slab.row_units * 4;
        dy_rows[index] = index * g.out_width * layout.dy_pixel * 4;
        pack_rows(dy + index * g.out_width * layout.dy_pixel, layout.dy_pixel,
                  dy_from + image * g.y_n + (y0 + i) * g.y_h, g.y_w, g.y_k, g.out_width, outputs);
      }
      slab_row += slab.covered_h(rows);
      at += rows;
    }
    return end - begin;
  }

  void multiply(float* own, int64_t rows, int64_t channels, int64_t outputs, bool accumulate) {
    OuterArguments tile{};
    tile.dy_rows = dy_rows;
    tile.x_rows = x_rows;
    tile.rows = rows;
    tile.pixels = g.out_width;
    tile.dy_pixel = layout.dy_pixel * 4;
    tile.x_pixel = layout.slab.stride_w * layout.slab.pixel_units * 4;
    tile.sums_row = layout.k_values;
    tile.accumulate = accumulate;
    const int64_t strips = ceil_div(outputs, kMaxRows);
    for (int64_t position = 0; position < layout.positions; ++position) {
      const int64_t r = position / layout.positions_w, s = position % layout.positions_w;
      const int64_t window =
          r * g.dilation_h * layout.slab.row_units + s * g.dilation_w * layout.slab.pixel_units;
      for (int64_t c = 0; c < channels; c += kPanel) {
        const int64_t vectors = ceil_div(min(kPanel, channels - c), kLanes);
        tile.x = reinterpret_cast<const char*>(x + window + c);
        for (int64_t strip = 0; strip < strips; ++strip) {
          const int64_t k = share(outputs, strips, strip), count = share(outputs, strips, strip + 1) - k;
          tile.dy = reinterpret_cast<const char*>(dy + k);
          tile.sums = own + k * layout.k_values + position * layout.row_values + c;
          kOuter.at[count][vectors](tile);
        }
      }
    }
  }

  // The sums of a part without pixels.
  void clear(float* own, int64_t channels, int64_t outputs) const {
    for (int64_t k = 0; k < outputs; ++k) {
      for (int64_t position = 0; position < layout.positions; ++position) {
        float* at = own + k * layout.k_values + position * layout.row_values;
        for (int64_t c = 0; c < channels; c += kLanes) store(at + c, zero());
      }
    }
  }

  // Values that begin at the c-th of a position; in a merged row, c runs through the columns of the window as
  // well.
  void scatter(T* to, vf values, int64_t c, int count) {
    T dense[kLanes];
    store_upto(dense, values, kLanes);
    for (int i = 0; i < count; ++i) {
      const int64_t column = layout.merged ? (c + i) / g.in_channels : 0;
      const int64_t channel = layout.merged ? (c + i) % g.in_channels : c + i;
      to[column * g.weight_s + channel * g.weight_c] = dense[i];
    }
  }
};

struct Run {
  const Conv2dGeometry* geometry;
  const Conv2dPointers* pointers;
  const Layout* layout;
  char* workspace;
};

template <class T>
void work(void* context, int thread, int team) {
  const Run& run = *static_cast<const Run*>(context);
  const Conv2dGeometry& g = *run.geometry;
  const Layout& layout = *run.layout;
  char* own = run.workspace + layout.sums_bytes(g) + thread * layout.thread_bytes();
  char* dy = own + layout.x_bytes;
  char* offsets = dy + layout.dy_bytes;
  Worker<T> worker{g,
                   *run.pointers,
                   layout,
                   reinterpret_cast<float*>(run.workspace),
                   reinterpret_cast<float*>(own),
                   reinterpret_cast<float*>(dy),
                   reinterpret_cast<int64_t*>(offsets),
                   reinterpret_cast<int64_t*>(offsets + layout.offsets_bytes / 2)};
  for (int64_t task = share(layout.tasks, team, thread), end = share(layout.tasks, team, thread + 1);
       task < end; ++task) {
    worker.run(task);
  }
  barrier(team);
  const int64_t outputs = g.groups * g.out_channels;
  for (int64_t k = share(outputs, team, thread), end = share(outputs, team, thread + 1); k < end; ++k) {
    worker.write(k);
  }
}

void run_all(const Conv2dGeometry& g, const Conv2dPointers& pointers, void* workspace) {
  const Layout layout(g);
  Run run{&g, &pointers, &layout, static_cast<char*>(workspace)};
  switch (g.dtype) {
    case Dtype::f32:
      return parallel(layout.threads(g), work<float>, &run);
    case Dtype::bf16:
      return parallel(layout.threads(g), work<bf16>, &run);
    case Dtype::f16:
      return parallel(layout.threads(g), work<f16>, &run);
  }
}

size_t workspace_of(const Conv2dGeometry& g) {
  const Layout layout(g);
  return static_cast<size_t>(layout.sums_bytes(g) + layout.thread_bytes() * layout.threads(g));
}

size_t packed_bytes_of(const Conv2dGeometry&) {
  return 0;
}

void pack_nothing(const Conv2dGeometry&, const void*, void*) {}

const char* refuses(const Conv2dGeometry& g) {
  return g.frozen ? "weight_gradient takes nothing packed" : nullptr;
}

}  // namespace

extern const Conv2dKernel kWeightGradient[];
constinit const Conv2dKernel kWeightGradient[] = {
    {"weight_gradient", Compute::f32, run_all, workspace_of, packed_bytes_of, pack_nothing, refuses},
    {},
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
