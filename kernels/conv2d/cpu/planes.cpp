// Depthwise convolution, and convolution with small groups, where y is contiguous along the image's rows:
// lanes are neighbouring pixels of a row.
//
// The rows of x that a block of output pixels needs are copied into a slab for each input channel: as fp32,
// with zeros where the padding is, and columns split into *phases*, so that the pixels which one tap of the
// window meets lie side by side whatever the stride:
//
//      stride 1                             stride 2
//      0 a b c d e f 0                      0 a b c d e f 0   ->   0 b d f | a c e 0
//
// A tile of several rows of y then loads each row of the slab once for all taps of a column, and y is written
// as it lies.
//
// A task is a block of block_h × block_w output pixels and about block_n output channels (whole groups).
// Blocks and threads do not change the order in which anything is summed.
#include "conv2d/cpu/finish.h"
#include "conv2d/cpu/planes_slab.h"
#include "conv2d/cpu/planes_tile.h"
#include "cpu/arithmetic.h"
#include "cpu/threads.h"
#include "instances.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

namespace {

// Sizes of what a launch works with; in floats where nothing is said.
struct Layout {
  int64_t block_h, block_w, blocks_h, blocks_w, blocks_n;
  int64_t block_groups;
  PlaneWindow window;
  PlaneSlab slab;
  int64_t channel;  // of the slab
  int64_t taps;     // of all input channels of a group
  int64_t sums_row;
  bool at_once;  // the tile adds the bias and applies the activation,
  bool direct;   // and writes y
  int64_t packed_bytes, slab_bytes, sums_bytes;
  int64_t tasks;

  explicit Layout(const Conv2dGeometry& g) : slab(g, min(g.block_w, g.out_width)) {
    block_h = min(g.block_h, g.out_height);
    block_w = min(g.block_w, g.out_width);
    blocks_h = ceil_div(g.out_height, block_h);
    blocks_w = ceil_div(g.out_width, block_w);
    block_groups = max(1, min(g.groups, g.block_n / g.out_channels));
    blocks_n = ceil_div(g.groups, block_groups);
    tasks = g.batch * blocks_n * blocks_h * blocks_w;
    window = window_of(g);
    channel = covered(g, block_h) * slab.row_floats;
    taps = g.in_channels * g.kernel_h * g.kernel_w;
    const bool plain = g.activation == Activation::none || g.activation == Activation::relu;
    at_once = plain && !g.keep_preact && !g.has_residual;
    direct = at_once && g.dtype == Dtype::f32;
    sums_row = round_up(block_w, kLanes);
    packed_bytes = g.groups * g.out_channels * taps * 4;
    // Tiles read whole vectors, the last of them beyond the last row.
    slab_bytes = round_up((block_groups * g.in_channels * channel + kLanes) * 4, kLine) + kApart;
    sums_bytes = direct ? 0 : block_h * sums_row * 4 + kApart;
  }

  // Rows of x that so many rows of y see.
  static int64_t covered(const Conv2dGeometry& g, int64_t rows) {
    return (rows - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1;
  }

  static PlaneWindow window_of(const Conv2dGeometry& g) {
    if (!kPlaneWindowsCompiled || g.dilation_h != 1 || g.dilation_w != 1 || g.kernel_h != g.kernel_w ||
        g.stride_h != g.stride_w) {
      return kAnyPlaneWindow;
    }
    if (g.kernel_w == 3 && g.stride_w == 1) return k3x3;
    if (g.kernel_w == 3 && g.stride_w == 2) return k3x3Stride2;
    if (g.kernel_w == 5 && g.stride_w == 1) return k5x5;
    if (g.kernel_w == 5 && g.stride_w == 2) return k5x5Stride2;
    return kAnyPlaneWindow;
  }

  int64_t shared_bytes(const Conv2dGeometry& g) const {
    return g.frozen ? 0 : round_up(packed_bytes, kLine) + kApart;
  }

  int64_t own_bytes() const {
    return slab_bytes + sums_bytes;
  }

  int threads(const Conv2dGeometry& g) const {
    return static_cast<int>(max(1, min(g.threads, tasks)));
  }
};

// The packed weight: [output channel][input channel][row][column], in fp32.
template <class T>
void pack_share(float* packed, const T* weight, const Conv2dGeometry& g, const Layout& layout, int thread,
                int team) {
  const int64_t all = g.groups * g.out_channels;
  for (int64_t channel = share(all, team, thread), end = share(all, team, thread + 1); channel < end;
       ++channel) {
    float* to = packed + channel * layout.taps;
    const T* from = weight + g.weight_origin + channel / g.out_channels * g.weight_g +
                    channel % g.out_channels * g.weight_k;
    for (int64_t c = 0; c < g.in_channels; ++c) {
      for (int64_t r = 0; r < g.kernel_h; ++r) {
        for (int64_t s = 0; s < g.kernel_w; s += kLanes) {
          const int columns = static_cast<int>(min(kLanes, g.kernel_w - s));
          const T* at = from + c * g.weight_c + r * g.weight_r + s * g.weight_s;
          store_upto(to + s, load_strided(at, g.weight_s, columns), columns);
        }
        to += g.kernel_w;
      }
    }
  }
}

// One thread's view of a launch.
template <class T>
struct Worker {
  const Conv2dGeometry& g;
  const Conv2dPointers& p;
  const Layout& layout;
  const float* weight;  // packed
  float* slab;
  float* sums;

  // The tasks first … last - 1, one after another.
  void run(int64_t first, int64_t last) {
    Block block = at(first);
    for (int64_t task = first; task < last; ++task) {
      const Block next = task + 1 < last ? at(task + 1) : Block{};
      compute(block, next);
      block = next;
    }
  }

 private:
  // What a task computes.
  struct Block {
    Strip strip;  // its first row
    int64_t rows;
    int64_t first, last;  // groups
  };

  Block at(int64_t task) const {
    const int64_t block_x = task % layout.blocks_w;
    int64_t rest = task / layout.blocks_w;
    const int64_t block_y = rest % layout.blocks_h;
    rest /= layout.blocks_h;
    const int64_t part = rest % layout.blocks_n, image = rest / layout.blocks_n;
    const int64_t y0 = share(g.out_height, layout.blocks_h, block_y);
    const int64_t x0 = share(g.out_width, layout.blocks_w, block_x);
    const int64_t cols = share(g.out_width, layout.blocks_w, block_x + 1) - x0;
    return {{image, y0, x0, static_cast<int>(cols)},
            share(g.out_height, layout.blocks_h, block_y + 1) - y0,
            share(g.groups, layout.blocks_n, part),
            share(g.groups, layout.blocks_n, part + 1)};
  }

  const T* image_of(const Block& block, int64_t channel) const {
    return static_cast<const T*>(p.x) + block.strip.image * g.x_n + channel * g.x_c;
  }

  void compute(const Block& block, const Block& next) {
    // All channels are copied before the first is read: what was stored a moment ago, in other pieces, is
    // slow to load.
    float* to = slab;
    const int64_t y = block.strip.row * g.stride_h - g.top, left = g.left - block.strip.col * g.stride_w;
    Inside inside[kMostVectors];
    layout.slab.write_masks(inside, g, left);
    const T* lowest = static_cast<const T*>(p.x);
    const T* highest = lowest + (g.batch - 1) * g.x_n + (g.groups * g.in_channels - 1) * g.x_c +
                       (g.height - 1) * g.x_h + (g.width - 1) * g.x_w + 1;
    for (int64_t c = block.first * g.in_channels; c < block.last * g.in_channels; ++c, to += layout.channel) {
      layout.slab.fill(to, image_of(block, c), g, y, left, Layout::covered(g, block.rows), inside, lowest,
                       highest);
    }
    for (int64_t group = block.first; group < block.last; ++group) {
      const float* x = slab + (group - block.first) * g.in_channels * layout.channel;
      for (int64_t k = 0; k < g.out_channels; ++k) {
        const int64_t later = next.first + group - block.first;
        Ahead ahead{};
        if (later < next.last && k < g.in_channels) ahead = ahead_of(next, later * g.in_channels + k);
        compute(x, block.strip, block.rows, group * g.out_channels + k, ahead);
      }
    }
  }

  // What is fetched into L2 while another block is computed: few lines at a time, because a processor drops
  // what it is asked for while too much is under way.
  struct Ahead {
    const char* at;
    int64_t bytes;

    void fetch(int64_t lines) {
      for (; lines > 0 && bytes > 0; --lines, bytes -= kLine, at += kLine) __builtin_prefetch(at, 0, 2);
    }
  };

  // A block's part of one channel of x.
  Ahead ahead_of(const Block& block, int64_t channel) const {
    const int64_t y = block.strip.row * g.stride_h - g.top;
    const int64_t first = max(0, y), last = min(g.height, y + Layout::covered(g, block.rows));
    const bool close = g.x_w == 1 && g.x_h <= 2 * g.width;  // else most of it would be of no use
    if (!close || last <= first) return {};
    const T* from = image_of(block, channel) + first * g.x_h;
    return {reinterpret_cast<const char*>(from), (last - first) * g.x_h * static_cast<int64_t>(sizeof(T))};
  }

  // One channel of a block of y, from the slabs of its group.
  void compute(const float* x, const Strip& strip, int64_t rows, int64_t channel, Ahead ahead) {
    const int64_t cols = strip.count;
    PlaneTile tile{};
    tile.channel = layout.channel;
    tile.row = layout.slab.row_floats;
    tile.phase = layout.slab.phase;
    tile.channels = g.in_channels;
    tile.weight = weight + channel * layout.taps;
    tile.kernel_h = g.kernel_h;
    tile.kernel_w = g.kernel_w;
    tile.stride_h = g.stride_h;
    tile.stride_w = g.stride_w;
    tile.dilation_h = g.dilation_h;
    tile.dilation_w = g.dilation_w;
    if (layout.at_once) {
      if (g.has_bias) tile.bias = bias_at(channel);
      tile.relu = g.activation == Activation::relu;
    }
    T* y = static_cast<T*>(p.y) + strip.image * g.y_n + channel * g.y_k + strip.row * g.y_h + strip.col;
    float* out = layout.direct ? reinterpret_cast<float*>(y) : sums;
    tile.out_row = layout.direct ? g.y_h : layout.sums_row;
    int size = kPlaneRowSizes - 1;
    while (kPlaneRows[size] > rows) --size;
    const int64_t height = kPlaneRows[size];
    const int64_t tiles = ceil_div(rows, height) * ceil_div(cols, kPlaneVectors * kLanes);
    const int64_t lines = ceil_div(ceil_div(ahead.bytes, kLine), tiles);
    for (int64_t at = 0; at < rows; at += height) {
      const int64_t row = min(at, rows - height);
      for (int64_t col = 0; col < cols;) {
        ahead.fetch(lines);
        const int64_t left = cols - col;
        const int vectors = left > kLanes ? kPlaneVectors : 1;
        tile.x = x + row * g.stride_h * layout.slab.row_floats + col;
        tile.out = out + row * tile.out_row + col;
        tile.last = layout.direct ? static_cast<int>(min(kLanes, left - (vectors - 1) * kLanes)) : kLanes;
        kPlaneTiles.at[layout.window][size][vectors - 1](tile);
        col += vectors * kLanes;
      }
    }
    if (!layout.direct) finish(y, strip, rows, channel);
  }

  // Writes one channel of a block of y from its sums.
  void finish(T* y, const Strip& strip, int64_t rows, int64_t channel) {
    if (layout.at_once) {
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < strip.count; i += kLanes) {
          const int columns = static_cast<int>(min(strip.count - i, kLanes));
          store_upto(y + row * g.y_h + i, load(sums + row * layout.sums_row + i), columns);
        }
      }
      return;
    }
    Epilogue e = epilogue_at(g, p, strip, channel);
    e.bias_stride = 0;
    e.residual_row = g.residual_h;
    e.residual_col = g.residual_w;
    e.out_row = g.y_h;
    finish_tile(sums, layout.sums_row, static_cast<int>(rows), strip.count, e);
  }

  float bias_at(int64_t channel) const {
    const void* at = advance(p.bias, channel * g.bias_stride, g.bias_dtype);
    switch (g.bias_dtype) {
      case Dtype::bf16:
        return load_part(static_cast<const bf16*>(at), 1)[0];
      case Dtype::f16:
        return load_part(static_cast<const f16*>(at), 1)[0];
      case Dtype::f32:
        break;
    }
    return *static_cast<const float*>(at);
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
  char* own = run.workspace + layout.shared_bytes(g) + thread * layout.own_bytes();
  const float* weight = static_cast<const float*>(run.pointers->weight);
  if (!g.frozen) {
    float* packed = reinterpret_cast<float*>(run.workspace);
    pack_share(packed, static_cast<const T*>(run.pointers->weight), g, layout, thread, team);
    weight = packed;
    barrier(team);
  }
  float* slab = reinterpret_cast<float*>(own);
  Worker<T> worker{g, *run.pointers, layout, weight, slab, slab + layout.slab_bytes / 4};
  worker.run(share(layout.tasks, team, thread), share(layout.tasks, team, thread + 1));
}

template <class T>
void pack_whole(void* context, int thread, int team) {
  const Run& run = *static_cast<const Run*>(context);
  pack_share(reinterpret_cast<float*>(run.workspace), static_cast<const T*>(run.pointers->weight),
             *run.geometry, *run.layout, thread, team);
}

void run_planes(const Conv2dGeometry& g, const Conv2dPointers& pointers, void* workspace) {
  const Layout layout(g);
  Run run{&g, &pointers, &layout, static_cast<char*>(workspace)};
  with_math(g.dtype,
            [&](auto math) { parallel(layout.threads(g), work<typename decltype(math)::Element>, &run); });
}

size_t workspace_of(const Conv2dGeometry& g) {
  const Layout layout(g);
  return static_cast<size_t>(layout.shared_bytes(g) + layout.own_bytes() * layout.threads(g));
}

size_t packed_bytes_of(const Conv2dGeometry& g) {
  return static_cast<size_t>(Layout(g).packed_bytes);
}

void pack_planes(const Conv2dGeometry& g, const void* weight, void* packed) {
  const Layout layout(g);
  Conv2dPointers pointers{};
  pointers.weight = weight;
  Run run{&g, &pointers, &layout, static_cast<char*>(packed)};
  with_math(g.dtype,
            [&](auto math) { parallel(g.threads, pack_whole<typename decltype(math)::Element>, &run); });
}

const char* refuses(const Conv2dGeometry& g) {
  if (g.in_channels < 1) return "planes takes convolutions that have input channels";
  return g.y_w == 1 ? nullptr : "planes writes rows: y must be contiguous along them";
}

}  // namespace

extern const Conv2dKernel kPlanes[];
constinit const Conv2dKernel kPlanes[] = {
    {"planes", Compute::f32, run_planes, workspace_of, packed_bytes_of, pack_planes, refuses},
    {},
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
