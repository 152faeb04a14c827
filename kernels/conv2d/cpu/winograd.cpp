// Winograd's convolution F(4×4, 3×3): 36 products where the definition takes 144. winograd_points.h says what
// is computed.
//
// y is cut into tiles of 4 × 4 pixels. The patch of x under a tile (6 × 6 pixels, overlapping its
// neighbours') turns into 36 positions, and so does each filter; at each position, tiles × channels meets
// channels × output channels in an ordinary matrix product; 36 sums turn back into 16 pixels.
//
//      x                     V[36]                      U[36]                M[36]              y
//      +-------+---+
//      |patch  |   |        tiles +----------+    C +----------+      tiles +------+         +----+----+
//      |  +----+--+|  B^T d B     | channels |  ·   | panel of |   =        |      |  A^T m A|tile|    |
//      |  |    |  ||   ---->      |          |      | outputs  |            |      |   ----> +----+----+
//      +--+----+  ||              +----------+      +----------+            +------+         |    |    |
//
// Tiles are counted over all images, and cut into blocks of block_w of them. Two algorithms differ in who
// makes V:
//   winograd_fused   a thread makes that of one block at a time, in its own L2;
//   winograd_phased  all threads make that of all blocks, and wait for each other once: for few tiles.
// Then a thread takes one block and one of `parts` shares of the output channels at a time, and computes
// block_n of them after one another: the 36 products, whose sums stay in L2, and their way back to y.
#include "conv2d/cpu/finish.h"
#include "conv2d/cpu/winograd_layout.h"
#include "conv2d/cpu/winograd_tile.h"
#include "conv2d/cpu/winograd_weight.h"
#include "cpu/arithmetic.h"
#include "cpu/threads.h"
#include "instances.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

namespace {

using Step = WidenedStep<float>;

using winograd::Layout;
using winograd::Order;
using winograd::Rows;
using winograd::TileRun;

// One thread's view of a launch.
template <class T>
struct Worker {
  const Conv2dGeometry& g;
  const Conv2dPointers& p;
  const Layout& layout;
  const float* weight;   // transformed
  float* all_positions;  // V of all blocks, or of this thread's
  float* sums;
  float* scratch;
  int64_t held = -1;  // the block and group whose V this thread holds

  static void pack(float* to, const T* weight, const Conv2dGeometry& g, const Layout& layout, int thread,
                   int team) {
    const int64_t chunks = ceil_div(g.in_channels, kWeightChunk);
    const int64_t jobs = g.groups * layout.panels * chunks;
    for (int64_t job = share(jobs, team, thread), end = share(jobs, team, thread + 1); job < end; ++job) {
      const int64_t first = job % chunks * kWeightChunk, panel = job / chunks % layout.panels;
      const int64_t group = job / chunks / layout.panels, channel = panel * kPanel;
      const T* from =
          weight + g.weight_origin + group * g.weight_g + channel * g.weight_k + first * g.weight_c;
      transform_weight(to + job / chunks * layout.panel + first * kPanel, layout.weight_position, from, g,
                       static_cast<int>(min(kPanel, g.out_channels - channel)),
                       min(kWeightChunk, g.in_channels - first));
    }
  }

  // The thread's part of V of all blocks.
  void fill_all(int thread, int team) {
    int64_t job = 0;
    for (int64_t group = 0; group < g.groups; ++group) {
      for (int64_t block = 0; block < layout.blocks; ++block) {
        float* to = all_positions + (group * layout.blocks + block) * layout.block_floats;
        Order(layout, block).for_runs([&](const TileRun& run) {
          for (int64_t c = 0; c < g.in_channels; c += kSlabChannels) {
            if (job++ % team == thread) fill(to, run, group, c);
          }
        });
      }
    }
  }

  void run(int64_t task) {
    const int64_t part = task % g.parts, place = task / g.parts;
    const int64_t group = place / layout.blocks;
    const Order order(layout, place % layout.blocks);
    float* positions = all_positions + (layout.phased ? place * layout.block_floats : 0);
    if (!layout.phased && held != place) {
      order.for_runs([&](const TileRun& run) {
        for (int64_t c = 0; c < g.in_channels; c += kSlabChannels) fill(positions, run, group, c);
      });
      held = place;
    }
    const int64_t first = share(layout.panels, g.parts, part), last = share(layout.panels, g.parts, part + 1);
    const int64_t passes = ceil_div(last - first, layout.group_panels);
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t begin = first + share(last - first, passes, pass);
      const int64_t end = first + share(last - first, passes, pass + 1);
      multiply(positions, order, group, begin, end);
      order.for_runs([&](const TileRun& run) {
        for (int64_t panel = begin; panel < end; ++panel) {
          finish(sums + (panel - begin) * layout.sums_panel, run, group, panel);
        }
      });
    }
  }

 private:
  // V of a run of tiles, for kSlabChannels channels from `channel`.
  void fill(float* positions, const TileRun& run, int64_t group, int64_t channel) {
    const int64_t channels = min(kSlabChannels, g.in_channels - channel);
    const T* x = static_cast<const T*>(p.x) + run.image * g.x_n + (group * g.in_channels + channel) * g.x_c;
    const int64_t y0 = run.tile_row * kTileSide - g.top, x0 = run.tile_col * kTileSide - g.left;
    const int columns = run.all_cols() + 2;
    const int64_t next = next_slab(run, channel);
    for (int i = 0; i < run.rows + 2; ++i) {
      copy_row(scratch + i * kSlabRow, x, y0 + i, x0, columns, channels, next);
    }
    const int vectors = static_cast<int>(ceil_div(channels, kLanes));
    for (int tile = 0; tile < run.count; ++tile) {
      transform_patch(positions + run.slot_of(tile) * layout.row + channel, layout.position,
                      scratch + tile * kTileSide * kSlabChannels, run.rows, run.cols(tile), vectors);
    }
  }

  // Pixels x0 to x0 + columns of row iy of x, kSlabChannels apart; zero outside of the image, and in channels
  // that fill the last vector.
  void copy_row(float* to, const T* x, int64_t iy, int64_t x0, int64_t columns, int64_t channels,
                int64_t next) const {
    const bool inside = iy >= 0 && iy < g.height;
    const int64_t begin = inside ? min(columns, max(0, -x0)) : columns;
    const int64_t end = max(begin, min(columns, g.width - x0));
    clear(to, channels % kLanes == 0 ? begin : columns);
    if (begin < end) {
      const T* from = x + iy * g.x_h + (x0 + begin) * g.x_w;
      fetch(from + next, end - begin, channels);
      copy(to + begin * kSlabChannels, from, end - begin, channels);
    }
    clear(to + end * kSlabChannels, columns - end);
  }

  void copy(float* to, const T* from, int64_t pixels, int64_t channels) const {
    if (g.x_c != 1 || channels < kSlabChannels) {
      return pack_rows(to, kSlabChannels, from, g.x_w, g.x_c, pixels, channels);
    }
    for (int64_t i = 0; i < pixels; ++i) {
      TW_UNROLL for (int c = 0; c < kSlabChannels; c += kLanes) {
        store(to + i * kSlabChannels + c, load(from + i * g.x_w + c));
      }
    }
  }

  // Elements of x from one slab to the next: further channels, else tiles to the right, else the row below.
  int64_t next_slab(const TileRun& run, int64_t channel) const {
    if (channel + kSlabChannels < g.in_channels) return kSlabChannels * g.x_c;
    const bool right = run.tile_col + run.count < layout.tiles_w;
    return (right ? run.count * kTileSide * g.x_w : kTileSide * (g.x_h - run.tile_col * g.x_w)) -
           channel * g.x_c;
  }

  // Fetches pixels into L2. Their order is none that the hardware foresees, and each piece is short.
  void fetch(const T* from, int64_t pixels, int64_t channels) const {
    const bool by_pixel = g.x_c == 1;
    const int64_t pieces = by_pixel ? pixels : channels, step = by_pixel ? g.x_w : g.x_c;
    const int64_t bytes = (by_pixel ? channels : pixels * g.x_w) * static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < pieces; ++i) {
      for (int64_t at = 0; at < bytes; at += kLine) {
        __builtin_prefetch(reinterpret_cast<const char*>(from + i * step) + at, 0, 2);
      }
    }
  }

  static void clear(float* to, int64_t pixels) {
    __builtin_memset(to, 0, static_cast<size_t>(pixels * kSlabChannels) * 4);
  }

  // The products of all positions for panels first … last.
  void multiply(const float* positions, const Order& order, int64_t group, int64_t first,
                int64_t last) const {
    const auto panel_at = [&](int64_t panel, int position) {
      return weight + (group * layout.panels + panel) * layout.panel + position * layout.weight_position;
    };
    TileArguments tile{};
    tile.steps = g.in_channels;
    tile.a_row = layout.row * 4;
    for (int position = 0; position < kPositions; ++position) {
      const Rows rows = order.rows(layout.kind(position / kPoints, position % kPoints));
      const int64_t strips = ceil_div(rows.count, kMaxRows);
      for (int64_t panel = first; panel < last; ++panel) {
        const int vectors = static_cast<int>(ceil_div(min(kPanel, g.out_channels - panel * kPanel), kLanes));
        float* to = sums + (panel - first) * layout.sums_panel + position * layout.sums_position;
        tile.b = panel_at(panel, position);
        // The first strip fetches what comes next, which is as much as it reads.
        const float* next = panel + 1 < last            ? panel_at(panel + 1, position)
                            : position + 1 < kPositions ? panel_at(first, position + 1)
                            : last < layout.panels      ? panel_at(last, 0)
                                                        : weight;
        tile.prefetch = reinterpret_cast<uintptr_t>(next);
        tile.prefetch_step = kPanel * 4;
        for (int64_t strip = 0; strip < strips; ++strip) {
          const int64_t begin = rows.first + share(rows.count, strips, strip);
          const int64_t end = rows.first + share(rows.count, strips, strip + 1);
          tile.a = positions + position * layout.position + begin * layout.row;
          tile.c = to + begin * vectors * kLanes;
          kTiles<Step>.at[end - begin][vectors](tile);
          tile.prefetch_step = 0;
        }
      }
    }
  }

  // One panel of a run of tiles: back from positions to pixels, and into y.
  void finish(const float* panel_sums, const TileRun& run, int64_t group, int64_t panel) {
    const int64_t channel = panel * kPanel;
    const int64_t channels = min(kPanel, g.out_channels - channel);
    const int vectors = static_cast<int>(ceil_div(channels, kLanes));
    const int64_t row = vectors * kLanes;
    for (int tile = 0; tile < run.count; ++tile) {
      transform_sums(scratch + tile * kTileSide * kPanel, panel_sums + run.slot_of(tile) * row,
                     layout.sums_position, run.rows, run.cols(tile), vectors);
    }
    for (int i = 0; i < run.rows; ++i) {
      const Strip strip{run.image, run.tile_row * kTileSide + i, run.tile_col * kTileSide, run.all_cols()};
      finish_strip(scratch + i * kOutputRow, kPanel, g, p, strip, group * g.out_channels + channel, channels);
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
  const float* weight = static_cast<const float*>(run.pointers->weight);
  if (!g.frozen) {
    float* packed = reinterpret_cast<float*>(run.workspace);
    Worker<T>::pack(packed, static_cast<const T*>(run.pointers->weight), g, layout, thread, team);
    weight = packed;
  }
  float* shared = reinterpret_cast<float*>(run.workspace + layout.weight_bytes(g));
  float* own = reinterpret_cast<float*>(run.workspace + layout.shared_bytes(g) + thread * layout.own_bytes);
  float* sums = layout.phased ? own : own + layout.block_floats + kLine;
  Worker<T> worker{g,
                   *run.pointers,
                   layout,
                   weight,
                   layout.phased ? shared : own,
                   sums,
                   sums + layout.group_panels * layout.sums_panel + kLine};
  if (layout.phased) worker.fill_all(thread, team);
  if (layout.phased || !g.frozen) barrier(team);
  for (int64_t task = share(layout.tasks, team, thread), end = share(layout.tasks, team, thread + 1);
       task < end; ++task) {
    worker.run(task);
  }
}

template <class T>
void pack_whole(void* context, int thread, int team) {
  const Run& run = *static_cast<const Run*>(context);
  Worker<T>::pack(reinterpret_cast<float*>(run.workspace), static_cast<const T*>(run.pointers->weight),
                  *run.geometry, *run.layout, thread, team);
}

template <bool kPhased>
void run_tiles(const Conv2dGeometry& g, const Conv2dPointers& pointers, void* workspace) {
  const Layout layout(g, kPhased);
  Run run{&g, &pointers, &layout, static_cast<char*>(workspace)};
  with_math(g.dtype,
            [&](auto math) { parallel(layout.threads(g), work<typename decltype(math)::Element>, &run); });
}

template <bool kPhased>
size_t workspace_of(const Conv2dGeometry& g) {
  const Layout layout(g, kPhased);
  return static_cast<size_t>(layout.shared_bytes(g) + layout.own_bytes * layout.threads(g));
}

size_t packed_bytes_of(const Conv2dGeometry& g) {
  return static_cast<size_t>(Layout(g, false).packed_bytes);
}

void pack_weight(const Conv2dGeometry& g, const void* weight, void* packed) {
  const Layout layout(g, false);
  Conv2dPointers pointers{};
  pointers.weight = weight;
  Run run{&g, &pointers, &layout, static_cast<char*>(packed)};
  with_math(g.dtype,
            [&](auto math) { parallel(g.threads, pack_whole<typename decltype(math)::Element>, &run); });
}

// Sizes are multiplied without looking elsewhere.
bool too_large(const Conv2dGeometry& g, bool phased) {
  constexpr double most = 1 << 30;
  const double tiles = static_cast<double>(ceil_div(g.out_height, kTileSide)) *
                       static_cast<double>(ceil_div(g.out_width, kTileSide)) * static_cast<double>(g.batch);
  const double block = tiles < static_cast<double>(g.block_w) ? tiles : static_cast<double>(g.block_w);
  const double patches = static_cast<double>(g.in_channels) * 4 * kPositions;  // bytes of a tile
  const double sums = static_cast<double>(min(g.block_n, g.out_channels)) * 4 * kPositions;
  return block * (patches + sums) > most ||
         (phased && tiles * static_cast<double>(g.groups) * patches > most);
}

template <bool kPhased>
const char* refuses(const Conv2dGeometry& g) {
  if (g.kernel_h != 3 || g.kernel_w != 3) return "winograd takes 3x3 kernels";
  if (g.stride_h != 1 || g.stride_w != 1) return "winograd takes stride 1";
  if (g.dilation_h != 1 || g.dilation_w != 1) return "winograd takes dilation 1";
  if (too_large(g, kPhased))
    return "winograd's blocks of so many tiles need more than 1 GiB of scratch memory";
  return nullptr;
}

}  // namespace

extern const Conv2dKernel kWinograd[];
constinit const Conv2dKernel kWinograd[] = {
    {"winograd_fused", Compute::f32, run_tiles<false>, workspace_of<false>, packed_bytes_of, pack_weight,
     refuses<false>},
    {"winograd_phased", Compute::f32, run_tiles<true>, workspace_of<true>, packed_bytes_of, pack_weight,
     refuses<true>},
    {},
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
