// Depthwise convolution, and convolution with small groups: lanes are output channels.
//
// A vector holds the output channels of as many whole groups as fit (or a part of one large group), and each
// lane multiplies input channels of its own group:
//
//      depthwise              two channels per group      (lanes of y over lanes of x)
//      y  0 1 2 3 4 5 6 7     y  0 1 2 3 4 5 6 7
//      x  0 1 2 3 4 5 6 7     x  0 0 2 2 4 4 6 6   and then   1 1 3 3 5 5 7 7
//
// Nothing is summed across lanes, so a tile of neighbouring pixels times one vector keeps its sums in
// registers for the whole window, and depthwise convolution multiplies nothing that is not asked for.
//
// x is read where it lies if its channels lie side by side; taps that fall into the padding are left out.
// Else, and where 16-bit values would be widened too often, a block of it is copied into a slab first.
//
// A task is a block of block_h × block_w output pixels and about block_n output channels. Blocks and threads
// do not change the order in which anything is summed.
#include "conv2d/cpu/finish.h"
#include "conv2d/cpu/grouped_deal.h"
#include "conv2d/cpu/grouped_tile.h"
#include "conv2d/cpu/slab.h"
#include "cpu/threads.h"
#include "instances.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

namespace {

// Smaller images lie in L2 or come from the next cache without help (Zen 5: 192 channels of 28×28 gain a
// quarter, 576 of 14×14 lose as much).
constexpr int64_t kFetched = int64_t{1} << 19;

// Sizes of what a launch works with.
struct Layout {
  Dealing deal;
  int64_t block_h, block_w, blocks_h, blocks_w, blocks_n;
  WindowKind kind;
  bool aligned;           // lanes of x and y are the same
  bool in_place;          // x is not copied
  bool fetches;           // the next row's pixels are fetched ahead
  bool at_once;           // the tile itself writes y
  bool wide_bias;         // the bias is copied, as fp32
  int64_t vector_floats;  // of the packed weight
  int64_t packed_bytes;
  Slab slab;
  int64_t slab_bytes, sums_row, sums_bytes, bias_bytes;
  int64_t tasks;

  explicit Layout(const Conv2dGeometry& g) : deal(g) {
    block_h = min(g.block_h, g.out_height);
    block_w = min(g.block_w, g.out_width);
    blocks_h = ceil_div(g.out_height, block_h);
    blocks_w = ceil_div(g.out_width, block_w);
    const int64_t block_vectors = max(1, min(deal.vectors, g.block_n / deal.used));
    blocks_n = ceil_div(deal.vectors, block_vectors);
    tasks = g.batch * blocks_h * blocks_w * blocks_n;

    aligned = g.in_channels == 1 && g.out_channels == 1;
    kind = kind_of(g);
    const bool narrow = g.dtype != Dtype::f32;
    const int64_t channels = g.groups * g.in_channels;
    in_place = g.x_c == 1 && channels >= kLanes && !(narrow && !widens(kind));
    if (in_place && kind != kAnyWindow && !fits_window(g)) {
      // Padding as wide as the window: the tile's few tests for it do not do.
      kind = kAnyWindow;
      in_place = !narrow;
    }
    // Each channel of a group reads the tile's pixels once more: they must not push each other out of L1.
    if (in_place && !aligned && crowded(g.x_w * 4, kTileSizes[kTileSizeCount - 1] * g.stride_w))
      in_place = false;
    fetches = in_place && g.height * g.width * channels * (narrow ? 2 : 4) >= kFetched;
    const bool plain = g.activation == Activation::none || g.activation == Activation::relu;
    at_once = g.y_k == 1 && deal.used == kLanes && plain && !g.keep_preact && !g.has_residual &&
              !(narrow && !in_place);
    wide_bias = at_once && g.has_bias && !(g.bias_dtype == Dtype::f32 && g.bias_stride == 1);

    vector_floats = g.in_channels * g.kernel_h * g.kernel_w * kLanes;
    packed_bytes = deal.vectors * vector_floats * 4;
    slab = Slab(g, block_w, min(channels, block_vectors * deal.span()), 1, 4, kLanes);
    slab_bytes = in_place ? 0 : round_up(slab.covered_h(block_h) * slab.row_units * 4, kLine) + kApart;
    // Lanes beyond the last vector's channels are written too.
    sums_row = round_up(block_vectors * deal.used + kLanes, kLanes);
    sums_bytes = at_once ? 0 : kTileSizes[kTileSizeCount - 1] * sums_row * 4 + kApart;
    bias_bytes = wide_bias ? round_up(g.groups * g.out_channels * 4, kLine) + kApart : 0;
  }

  WindowKind kind_of(const Conv2dGeometry& g) const {
    if (g.dilation_w != 1) return kAnyWindow;
    if (g.kernel_w == 3 && g.stride_w == 1) return kWidth3;
    if (g.kernel_w == 3 && g.stride_w == 2) return kWidth3Stride2;
    if (!aligned) return kAnyWindow;
    if (g.kernel_w == 5 && g.stride_w == 1) return kWidth5;
    if (g.kernel_w == 5 && g.stride_w == 2) return kWidth5Stride2;
    if (g.kernel_w == 7 && g.stride_w == 1) return kWidth7;
    return kAnyWindow;
  }

  // Whether there are tiles that widen 16-bit values themselves.
  bool widens(WindowKind of) const {
#if defined(__AVX2__) || defined(__aarch64__)
    return aligned && (of == kWidth3 || of == kWidth3Stride2);
#else
    return of == kWindowKinds;
#endif
  }

  // Whether so many pixels, this many bytes apart, are more than the sets of L1 that they fall into hold.
  static bool crowded(int64_t apart, int64_t pixels) {
    int64_t sets = 64;
    for (int64_t lines = apart / kLine; sets > 1 && lines % 2 == 0; lines /= 2) sets /= 2;
    return apart % kLine == 0 && pixels > 8 * sets;
  }

  static bool fits_window(const Conv2dGeometry& g) {
    const int64_t covered = (g.out_width - 1) * g.stride_w + g.kernel_w - g.left;
    return g.left < g.kernel_w && covered - g.width < g.kernel_w;
  }

  const GroupedTiles& tiles(Dtype dtype) const {
#if defined(__AVX2__) || defined(__aarch64__)
    if (in_place && dtype == Dtype::bf16) return kGroupedTiles.bf16_aligned[kind];
    if (in_place && dtype == Dtype::f16) return kGroupedTiles.f16_aligned[kind];
#endif
    (void)dtype;
    return aligned ? kGroupedTiles.aligned[kind] : kGroupedTiles.permuted[kind];
  }

  int64_t shared_bytes(const Conv2dGeometry& g) const {
    return g.frozen ? 0 : round_up(packed_bytes, kLine) + kApart;
  }

  int64_t own_bytes() const {
    return slab_bytes + sums_bytes + bias_bytes;
  }

  int threads(const Conv2dGeometry& g) const {
    return static_cast<int>(max(1, min(g.threads, tasks)));
  }
};

template <class T>
void pack_share(float* to, const T* weight, const Conv2dGeometry& g, const Layout& layout, int thread,
                int team) {
  const int64_t vectors = layout.deal.vectors;
  for (int64_t v = share(vectors, team, thread), end = share(vectors, team, thread + 1); v < end; ++v) {
    pack_vector(to + v * layout.vector_floats, weight, g, layout.deal, v);
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
  const float* bias;  // as fp32, where the tile adds it
  int32_t lanes[kLanes];
  int size;  // index of the tile's size
  GroupedTile tile;

  void prepare() {
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool idle = lane >= layout.deal.used;
      lanes[lane] = idle ? 0 : static_cast<int32_t>(layout.deal.lane_group(lane) * g.in_channels);
    }
    tile = {};
    tile.kernel_h = g.kernel_h;
    tile.kernel_w = g.kernel_w;
    tile.stride_w = layout.in_place ? g.stride_w : layout.slab.stride_w;
    tile.dilation_w = g.dilation_w;
    tile.channels = g.in_channels;
    tile.lanes = lanes;
    tile.relu = layout.at_once && g.activation == Activation::relu;
    tile.sums = !layout.at_once;
    const int64_t unit = layout.in_place ? static_cast<int64_t>(sizeof(T)) : 4;
    tile.x_pixel = (layout.in_place ? g.x_w : layout.slab.pixel_units) * unit;
    // The rows that the next row of output pixels will see for the first time.
    tile.fetch_from = layout.fetches ? max(0, g.kernel_h - ceil_div(g.stride_h, g.dilation_h)) : g.kernel_h;
    tile.fetch = g.stride_h * g.x_h * unit;
    tile.x_row = (layout.in_place ? g.x_h : layout.slab.row_units) * g.dilation_h * unit;
  }

  void run(int64_t task) {
    const int64_t part = task % layout.blocks_n;
    int64_t rest = task / layout.blocks_n;
    const int64_t block_x = rest % layout.blocks_w;
    rest /= layout.blocks_w;
    const int64_t block_y = rest % layout.blocks_h, image = rest / layout.blocks_h;
    const int64_t y0 = share(g.out_height, layout.blocks_h, block_y);
    const int64_t rows = share(g.out_height, layout.blocks_h, block_y + 1) - y0;
    const int64_t x0 = share(g.out_width, layout.blocks_w, block_x);
    const int64_t cols = share(g.out_width, layout.blocks_w, block_x + 1) - x0;
    const int64_t first = share(layout.deal.vectors, layout.blocks_n, part);
    const int64_t last = share(layout.deal.vectors, layout.blocks_n, part + 1);
    const Vector begin = layout.deal.at(first);
    const T* x = static_cast<const T*>(p.x) + image * g.x_n + begin.in * g.x_c;
    int64_t channels = g.groups * g.in_channels - begin.in;
    if (!layout.in_place) {
      Slab own = layout.slab;
      own.channels = layout.deal.at(last - 1).in + layout.deal.span() - begin.in;
      own.flat = own.flat && own.channels == layout.slab.channels;
      own.fill(slab, x, g, y0, x0, rows, cols);
      channels = layout.slab.pixel_units;
    }
    choose_size(cols);
    const int64_t pixels = kTileSizes[size];
    tile.fetch_pixels = pixels * g.stride_w;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t iy = (y0 + row) * g.stride_h - g.top;
      if (layout.in_place) {
        // Rows of the window that lie in the image.
        tile.row_begin = iy >= 0 ? 0 : min(g.kernel_h, ceil_div(-iy, g.dilation_h));
        const int64_t below = g.height - iy;
        tile.row_end = max(tile.row_begin, below <= 0 ? 0 : min(g.kernel_h, ceil_div(below, g.dilation_h)));
      } else {
        tile.row_end = g.kernel_h;
      }
      for (int64_t i = 0; i < cols; i += pixels) {
        const int64_t col = min(i, cols - pixels);
        const char* at;
        if (layout.in_place) {
          const int64_t ix = (x0 + col) * g.stride_w - g.left;
          at = reinterpret_cast<const char*>(x + iy * g.x_h + ix * g.x_w);
          tile.begin = -ix;
          tile.end = g.width - ix;
        } else {
          at = reinterpret_cast<const char*>(slab + row * layout.slab.stride_h * layout.slab.row_units +
                                             col * layout.slab.stride_w * layout.slab.pixel_units);
          tile.begin = 0;
          tile.end = INT64_MAX;
        }
        compute(at, {image, y0 + row, x0 + col, static_cast<int>(pixels)}, first, last, channels);
      }
    }
  }

 private:
  // The size whose tiles cover `cols` pixels with the least work: beside its pixels, a tile costs about one.
  void choose_size(int64_t cols) {
    const GroupedTiles& tiles = layout.tiles(g.dtype);
    int64_t least = INT64_MAX;
    for (int i = 0; i < kTileSizeCount; ++i) {
      if (tiles.at[i] == nullptr || kTileSizes[i] > cols) continue;
      const int64_t work = ceil_div(cols, kTileSizes[i]) * (kTileSizes[i] + 1);
      if (work <= least) {
        least = work;
        size = i;
      }
    }
  }

  // The pixels of one strip, vectors first … last. x has `channels` from the first vector's on.
  void compute(const char* x, const Strip& strip, int64_t first, int64_t last, int64_t channels) {
    const int64_t unit = layout.in_place ? static_cast<int64_t>(sizeof(T)) : 4;
    const GroupedKernel kernel = layout.tiles(g.dtype).at[size];
    const Vector begin = layout.deal.at(first);
    int64_t end = begin.out;
    T* y = static_cast<T*>(p.y) + strip.image * g.y_n + strip.row * g.y_h + strip.col * g.y_w;
    tile.out_pixel = layout.at_once ? g.y_w * static_cast<int64_t>(sizeof(T)) : layout.sums_row * 4;
    for (int64_t vector = first; vector < last; ++vector) {
      const Vector v = layout.deal.at(vector);
      tile.x = x + (v.in - begin.in) * unit;
      tile.room = channels - (v.in - begin.in) - kLanes;
      tile.weight = weight + vector * layout.vector_floats;
      if (layout.at_once) {
        tile.bias = bias == nullptr ? nullptr : bias + v.out;
        tile.out = reinterpret_cast<char*>(y + v.out);
      } else {
        tile.out = reinterpret_cast<char*>(sums + (v.out - begin.out));
      }
      kernel(tile);
      end = v.out + layout.deal.used;
    }
    if (!layout.at_once) finish_strip(sums, layout.sums_row, g, p, strip, begin.out, end - begin.out);
  }
};

struct Run {
  const Conv2dGeometry* geometry;
  const Conv2dPointers* pointers;
  const Layout* layout;
  char* workspace;
};

// The bias where the tiles find it: contiguous, as fp32.
const float* widen_bias(float* to, const Conv2dGeometry& g, const void* bias) {
  const int64_t channels = g.groups * g.out_channels;
  __builtin_memset(to, 0, static_cast<size_t>(channels) * 4);
  add(to, round_up(channels, kLanes), 1, channels, bias, g.bias_dtype, 0, g.bias_stride);
  return to;
}

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
  float* sums = reinterpret_cast<float*>(own + layout.slab_bytes);
  const float* bias = static_cast<const float*>(run.pointers->bias);
  if (layout.wide_bias) bias = widen_bias(sums + layout.sums_bytes / 4, g, run.pointers->bias);
  Worker<T> worker{g, *run.pointers, layout, weight, reinterpret_cast<float*>(own), sums, bias, {}, 0, {}};
  worker.prepare();
  for (int64_t task = share(layout.tasks, team, thread), end = share(layout.tasks, team, thread + 1);
       task < end; ++task) {
    worker.run(task);
  }
}

template <class T>
void pack_whole(void* context, int thread, int team) {
  const Run& run = *static_cast<const Run*>(context);
  pack_share(reinterpret_cast<float*>(run.workspace), static_cast<const T*>(run.pointers->weight),
             *run.geometry, *run.layout, thread, team);
}

void run_grouped(const Conv2dGeometry& g, const Conv2dPointers& pointers, void* workspace) {
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

void pack_grouped(const Conv2dGeometry& g, const void* weight, void* packed) {
  const Layout layout(g);
  Conv2dPointers pointers{};
  pointers.weight = weight;
  Run run{&g, &pointers, &layout, static_cast<char*>(packed)};
  with_math(g.dtype,
            [&](auto math) { parallel(g.threads, pack_whole<typename decltype(math)::Element>, &run); });
}

const char* refuses(const Conv2dGeometry& g) {
  return g.in_channels < 1 ? "grouped takes convolutions that have input channels" : nullptr;
}

}  // namespace

extern const Conv2dKernel kGrouped[];
constinit const Conv2dKernel kGrouped[] = {
    {"grouped", Compute::f32, run_grouped, workspace_of, packed_bytes_of, pack_grouped, refuses},
    {},
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
