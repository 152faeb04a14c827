// Direct convolution: an implicit matrix product whose reduction is done before anything of y is stored.
//
// y is cut into blocks of block_h × block_w pixels of an image. For each, a thread copies the part of x that
// the block's windows cover into a *slab*: channels side by side, converted to what the kernel multiplies,
// zeros where the padding is. So layout, dtype, padding and cropping of x all end here.
//
//      slab (channels run into the page)            y
//      +--+--+--+--+--+--+--+--+                    +--+--+--+--+--+--+
//      |  |##|##|##|  |  |  |  |   window of        |  |AA|AA|AA|BB|BB|BB   run A, run B: the pixels of
//      +--+--+--+--+--+--+--+--+   a pixel          +--+--+--+--+--+--+     one register tile
//      |  |##|##|##|  |  |  |  |                    |  |  |  |  |  |  |
//      +--+--+--+--+--+--+--+--+                    +--+--+--+--+--+--+
//
// Neighbouring pixels of a run read the slab stride_w pixels apart, so nothing is copied per window (no
// im2col). The tile walks the window's segments: a row of it where its pixels lie side by side in the slab,
// else each pixel. The weight comes in panels of kPanel output channels (packed by all threads at the start
// of the call, or long before).
//
// A thread works on one block and one of `parts` shares of the output channels at a time, block_n channels
// after one another, whose panels stay in L2 while all pixels of the block pass. Threads and parts do not
// change the order in which anything is summed.
#include "conv2d/cpu/finish.h"
#include "conv2d/cpu/pack_weight.h"
#include "conv2d/cpu/slab.h"
#include "conv2d/cpu/tile.h"
#include "cpu/arithmetic.h"
#include "cpu/threads.h"
#include "instances.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

namespace {

constexpr int64_t kMaxSegments = 1024;
constexpr int64_t kMaxChunk = 16;  // runs whose sums wait for each other

// Sizes of what a launch works with.
template <class Math>
struct Layout {
  using Step = typename Math::Step;
  static constexpr int64_t kAUnit = sizeof(typename Step::AUnit);
  static constexpr int64_t kBUnit = sizeof(typename Step::BUnit);

  int64_t block_h, block_w, blocks_h, blocks_w;
  Slab slab;
  int64_t channel_steps;  // of one pixel
  bool whole_rows;        // a row of the window is one segment
  int64_t segment_count, segment_steps;
  int64_t panels, group_panels;  // of one group's output channels; of block_n
  int64_t panel_units;
  int64_t slab_bytes, packed_bytes, sums_bytes;
  int64_t tasks;

  explicit Layout(const Conv2dGeometry& g)
      : block_h(min(g.block_h, g.out_height)),
        block_w(min(g.block_w, g.out_width)),
        slab(g, block_w, g.in_channels, Step::kDepth, kAUnit) {
    blocks_h = ceil_div(g.out_height, block_h);
    blocks_w = ceil_div(g.out_width, block_w);
    channel_steps = ceil_div(g.in_channels, Step::kDepth);
    whole_rows = g.kernel_w == 1 || (g.dilation_w == 1 && slab.even);
    segment_count = whole_rows ? g.kernel_h : g.kernel_h * g.kernel_w;
    segment_steps = whole_rows ? g.kernel_w * channel_steps : channel_steps;
    panels = ceil_div(g.out_channels, kPanel);
    group_panels = max(1, min(g.block_n / kPanel, panels));
    panel_units = g.kernel_h * g.kernel_w * channel_steps * kPanel;
    slab_bytes = round_up(slab.covered_h(block_h) * slab.row_units * kAUnit, kLine) + kApart;
    packed_bytes = g.groups * panels * panel_units * kBUnit;
    sums_bytes = (g.y_k == 1 ? kMaxRows : kMaxChunk * kMaxRun) * kPanel * 4 + kApart;
    tasks = g.batch * g.groups * blocks_h * blocks_w * g.parts;
  }

  int64_t shared_bytes(const Conv2dGeometry& g) const {
    return (g.frozen ? 0 : round_up(packed_bytes, kLine) + kApart) + round_up(segment_count * 8, kLine);
  }

  int threads(const Conv2dGeometry& g) const {
    return static_cast<int>(max(1, min(g.threads, tasks)));
  }
};

template <class Math>
void write_segments(int64_t* segments, const Conv2dGeometry& g, const Layout<Math>& layout) {
  for (int64_t r = 0; r < g.kernel_h; ++r) {
    const int64_t row = r * g.dilation_h * layout.slab.row_units;
    const int64_t segments_of_row = layout.segment_count / g.kernel_h;
    for (int64_t s = 0; s < segments_of_row; ++s) {
      *segments++ = (row + s * g.dilation_w * layout.slab.pixel_units) * Layout<Math>::kAUnit;
    }
  }
}

// A block of output pixels.
struct Block {
  int64_t image, group, y0, x0, rows, cols;

  template <class Layout>
  Block(const Conv2dGeometry& g, const Layout& layout, int64_t index) {
    const int64_t block_x = index % layout.blocks_w;
    index /= layout.blocks_w;
    const int64_t block_y = index % layout.blocks_h;
    index /= layout.blocks_h;
    group = index % g.groups;
    image = index / g.groups;
    y0 = share(g.out_height, layout.blocks_h, block_y);
    rows = share(g.out_height, layout.blocks_h, block_y + 1) - y0;
    x0 = share(g.out_width, layout.blocks_w, block_x);
    cols = share(g.out_width, layout.blocks_w, block_x + 1) - x0;
  }
};

// Memory that the tiles of a block fetch into L2 between them, because the next block begins with it: one
// core alone draws it from memory no faster than it computes.
struct Ahead {
  uintptr_t at;
  int64_t bytes, left, tiles;

  TW_INLINE void next(WindowArguments& tile, int64_t steps) {
    if (left <= 0) {
      tile.prefetch = reinterpret_cast<uintptr_t>(tile.a[0]);
      tile.prefetch_step = 0;
      return;
    }
    const int64_t part = ceil_div(bytes, tiles);
    tile.prefetch = at;
    tile.prefetch_step = ceil_div(part, max(1, steps));
    at += static_cast<uintptr_t>(part);
    left -= part;
  }
};

// One thread's view of a launch.
template <class Math>
struct Worker {
  using Step = typename Math::Step;
  using T = typename Math::Element;
  using AUnit = typename Step::AUnit;
  using BUnit = typename Step::BUnit;

  const Conv2dGeometry& g;
  const Conv2dPointers& p;
  const Layout<Math>& layout;
  const int64_t* segments;
  const BUnit* weight;  // packed
  AUnit* slab;
  float* sums;
  int64_t held = -1;  // the block whose slab this thread holds

  static void pack(BUnit* to, const T* weight, const Conv2dGeometry& g, const Layout<Math>& layout,
                   int thread, int team) {
    const int64_t jobs = g.groups * layout.panels;
    for (int64_t job = share(jobs, team, thread), end = share(jobs, team, thread + 1); job < end; ++job) {
      const int64_t group = job / layout.panels, panel = job % layout.panels;
      const T* from = weight + g.weight_origin + group * g.weight_g;
      pack_weight_panel<Step::kDepth>(to + job * layout.panel_units, from, g, panel * kPanel,
                                      layout.channel_steps);
    }
  }

  // Computes one task. What comes next is fetched on the way: the next panels of the weight, and at last the
  // part of x that task `next` will need, if it is another.
  void run(int64_t task, int64_t next) {
    const Block block(g, layout, task / g.parts);
    if (held != task / g.parts) {
      layout.slab.fill(slab, image_of(block), g, block.y0, block.x0, block.rows, block.cols);
      held = task / g.parts;
    }
    const int64_t part = task % g.parts;
    const int64_t first = share(layout.panels, g.parts, part), last = share(layout.panels, g.parts, part + 1);
    const int64_t groups = ceil_div(last - first, layout.group_panels);
    const int64_t tiles = ceil_div(block.rows * ceil_div(block.cols, kMaxRun), 2);
    for (int64_t i = 0; i < groups; ++i) {
      const int64_t begin = first + share(last - first, groups, i);
      const int64_t end = first + share(last - first, groups, i + 1);
      Ahead ahead{};
      if (i + 1 < groups) {
        // The weight of a network's other layers has pushed out this one's since its last call.
        const int64_t panels = share(last - first, groups, i + 2) - share(last - first, groups, i + 1);
        ahead.at =
            reinterpret_cast<uintptr_t>(weight + (block.group * layout.panels + end) * layout.panel_units);
        ahead.bytes = panels * layout.panel_units * Layout<Math>::kBUnit;
      } else if (next / g.parts != held) {
        ahead = rows_of(Block(g, layout, next / g.parts));
      }
      ahead.left = ahead.bytes;
      ahead.tiles = tiles * (end - begin);
      multiply(block, begin, end, ahead);
    }
  }

 private:
  const T* image_of(const Block& block) const {
    return static_cast<const T*>(p.x) + block.image * g.x_n + block.group * g.in_channels * g.x_c;
  }

  // The rows of x that a block's windows cover, where they are one piece of memory.
  Ahead rows_of(const Block& block) const {
    if (g.x_c != 1 || g.groups != 1 || g.x_w != g.in_channels || g.x_h != g.width * g.x_w ||
        layout.slab.step_w != 1) {
      return {};
    }
    const int64_t begin = max(0, block.y0 * g.stride_h - g.top);
    const int64_t end = min(g.height, begin + layout.slab.covered_h(block.rows) * layout.slab.step_h);
    return {reinterpret_cast<uintptr_t>(image_of(block) + begin * g.x_h),
            max(0, end - begin) * g.x_h * static_cast<int64_t>(sizeof(T)), 0, 0};
  }

  // All pixels of the block, panels first … last of the output channels.
  void multiply(const Block& block, int64_t first, int64_t last, Ahead& ahead) {
    const int64_t runs = ceil_div(block.cols, kMaxRun);
    const int run = static_cast<int>(ceil_div(block.cols, runs));
    WindowArguments tile{};
    tile.segments = segments;
    tile.segment_count = layout.segment_count;
    tile.steps = layout.segment_steps;
    tile.a_pixel = layout.slab.stride_w * layout.slab.pixel_units * Layout<Math>::kAUnit;
    const int64_t all = block.rows * runs;
    const int64_t steps = layout.segment_count * layout.segment_steps;
    // Where y lies along the image's rows, its tiles are transposed: many at once, for stores of whole
    // vectors.
    const int64_t chunk = g.y_k == 1 ? 2 : kMaxChunk;
    for (int64_t chunk0 = 0; chunk0 < all; chunk0 += chunk) {
      const int64_t count = min(chunk, all - chunk0);
      const char* a[kMaxChunk];
      Strip pixels[kMaxChunk], strips[kMaxChunk];
      int64_t merged = 0;  // strips, after those that follow each other became one
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = (chunk0 + i) / runs;
        // The last run of a row ends with it, and computes once more what the one before has, if need be.
        const int64_t col = min((chunk0 + i) % runs * run, block.cols - run);
        a[i] = reinterpret_cast<const char*>(slab + row * layout.slab.stride_h * layout.slab.row_units +
                                             col * layout.slab.stride_w * layout.slab.pixel_units);
        const Strip strip{block.image, block.y0 + row, block.x0 + col, run};
        pixels[i] = strip;
        if (i > 0 && follows(strips[merged - 1], strip)) {
          strips[merged - 1].count += run;
        } else {
          strips[merged++] = strip;
        }
      }
      for (int64_t panel = first; panel < last; ++panel) {
        const int64_t channel = panel * kPanel;
        const int64_t channels = min(kPanel, g.out_channels - channel);
        const int vectors = static_cast<int>(ceil_div(channels, kLanes));
        const int64_t ldz = vectors * kLanes;
        tile.b = weight + (block.group * layout.panels + panel) * layout.panel_units;
        const int64_t y_channel = block.group * g.out_channels + channel;
        for (int64_t i = 0; i < merged; ++i) {
          fetch_strip(g, p, strips[i], y_channel, channels);
        }
        const bool in_registers =
            g.y_k == 1 && channels == ldz &&
            finishes_in_registers<typename Step::Result>(epilogue_at(g, p, strips[0], y_channel));
        for (int64_t i = 0; i < count; i += 2) {
          const int64_t pair = min(2, count - i);
          tile.a[0] = a[i];
          tile.a[1] = a[i + pair - 1];
          tile.c = sums + i * run * ldz;
          TileStore store;
          tile.store = nullptr;
          if (in_registers) {
            place(store, 0, pixels[i], y_channel);
            place(store, 1, pixels[i + pair - 1], y_channel);
            tile.store = &store;
          }
          ahead.next(tile, steps);
          kWindows<Step>.at[run][pair][vectors](tile);
        }
        if (in_registers) continue;
        float* z = sums;
        for (int64_t i = 0; i < merged; ++i) {
          finish_strip(z, ldz, g, p, strips[i], y_channel, channels);
          z += strips[i].count * ldz;
        }
      }
    }
  }

  // Sends a run of a tile to y.
  void place(TileStore& store, int run, const Strip& strip, int64_t channel) const {
    Epilogue e = epilogue_at(g, p, strip, channel);
    e.out_row = g.y_w;
    place_run(store, run, e);
  }

  // Whether the second strip goes on where the first ends, in y and in the residual.
  bool follows(const Strip& one, const Strip& other) const {
    const auto apart = [&](int64_t h, int64_t w) {
      return (other.row - one.row) * h + (other.col - one.col) * w;
    };
    return apart(g.y_h, g.y_w) == one.count * g.y_w &&
           (!g.has_residual || apart(g.residual_h, g.residual_w) == one.count * g.residual_w);
  }
};

struct Run {
  const Conv2dGeometry* geometry;
  const Conv2dPointers* pointers;
  const void* layout;
  char* workspace;
};

template <class Math>
void work(void* context, int thread, int team) {
  using BUnit = typename Math::Step::BUnit;
  using AUnit = typename Math::Step::AUnit;
  using T = typename Math::Element;
  const Run& run = *static_cast<const Run*>(context);
  const Conv2dGeometry& g = *run.geometry;
  const Layout<Math>& layout = *static_cast<const Layout<Math>*>(run.layout);
  int64_t* segments = reinterpret_cast<int64_t*>(run.workspace);
  char* shared = run.workspace + round_up(layout.segment_count * 8, kLine);
  char* own = run.workspace + layout.shared_bytes(g) + thread * (layout.slab_bytes + layout.sums_bytes);
  const BUnit* weight = static_cast<const BUnit*>(run.pointers->weight);
  if (!g.frozen) {
    Worker<Math>::pack(reinterpret_cast<BUnit*>(shared), static_cast<const T*>(run.pointers->weight), g,
                       layout, thread, team);
    weight = reinterpret_cast<const BUnit*>(shared);
    barrier(team);
  }
  Worker<Math> worker{g,
                      *run.pointers,
                      layout,
                      segments,
                      weight,
                      reinterpret_cast<AUnit*>(own),
                      reinterpret_cast<float*>(own + layout.slab_bytes)};
  const int64_t end = share(layout.tasks, team, thread + 1);
  for (int64_t task = share(layout.tasks, team, thread); task < end; ++task) {
    worker.run(task, min(task + 1, end - 1));
  }
}

template <class Math>
void run_with(const Conv2dGeometry& g, const Conv2dPointers& pointers, void* workspace) {
  const Layout<Math> layout(g);
  write_segments(static_cast<int64_t*>(workspace), g, layout);
  Run run{&g, &pointers, &layout, static_cast<char*>(workspace)};
  parallel(layout.threads(g), work<Math>, &run);
}

template <class Math>
size_t workspace_of(const Conv2dGeometry& g) {
  const Layout<Math> layout(g);
  return static_cast<size_t>(layout.shared_bytes(g) +
                             (layout.slab_bytes + layout.sums_bytes) * layout.threads(g));
}

template <class Math>
size_t packed_bytes_of(const Conv2dGeometry& g) {
  return static_cast<size_t>(Layout<Math>(g).packed_bytes);
}

template <class Math>
void pack_whole(void* context, int thread, int team) {
  const Run& run = *static_cast<const Run*>(context);
  Worker<Math>::pack(reinterpret_cast<typename Math::Step::BUnit*>(run.workspace),
                     static_cast<const typename Math::Element*>(run.pointers->weight), *run.geometry,
                     *static_cast<const Layout<Math>*>(run.layout), thread, team);
}

template <class Math>
void pack_with(const Conv2dGeometry& g, const void* weight, void* packed) {
  const Layout<Math> layout(g);
  Conv2dPointers pointers{};
  pointers.weight = weight;
  Run run{&g, &pointers, &layout, static_cast<char*>(packed)};
  parallel(g.threads, pack_whole<Math>, &run);
}

const char* refuses(const Conv2dGeometry& g) {
  return g.kernel_h * g.kernel_w > kMaxSegments ? "direct takes kernels of at most 1024 positions" : nullptr;
}

void run_f32(const Conv2dGeometry& g, const Conv2dPointers& pointers, void* workspace) {
  with_math(g.dtype, [&](auto math) { run_with<decltype(math)>(g, pointers, workspace); });
}

size_t workspace_f32(const Conv2dGeometry& g) {
  return with_math(g.dtype, [&](auto math) { return workspace_of<decltype(math)>(g); });
}

size_t packed_bytes_f32(const Conv2dGeometry& g) {
  return with_math(g.dtype, [&](auto math) { return packed_bytes_of<decltype(math)>(g); });
}

void pack_f32(const Conv2dGeometry& g, const void* weight, void* packed) {
  with_math(g.dtype, [&](auto math) { pack_with<decltype(math)>(g, weight, packed); });
}

}  // namespace

extern const Conv2dKernel kDirect[];
constinit const Conv2dKernel kDirect[] = {
    {"direct", Compute::f32, run_f32, workspace_f32, packed_bytes_f32, pack_f32, refuses},
#if defined(__AVX512F__)
    {"direct", Compute::bf16, run_with<Bf16>, workspace_of<Bf16>, packed_bytes_of<Bf16>, pack_with<Bf16>,
     refuses},
#endif
    {},
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
