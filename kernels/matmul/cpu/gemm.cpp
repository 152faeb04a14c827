// Blocked, packed, register-tiled matrix product. The walk is drawn in ../README.md.
//
// All threads together copy block_m rows of A, unless they can be read where they lie. Then each computes its
// own part of C, one of parts_m × parts_n: for every group of block_n columns and every block_k of K it takes
// the panels of B (packed by itself, by all threads at the start of the call, or long before, for a frozen
// weight), which then stay in L2, and runs the micro-kernel over its strips of rows and those panels. After
// the last block_k the epilogue finishes the tile while it is in L1. Each element of C is summed in an order
// that block_k and the tile decide, not the threads.
//
// Many small matrices are shared out whole: each thread then works alone, as a team of one.
#include "cpu/arithmetic.h"
#include "cpu/pack.h"
#include "cpu/threads.h"
#include "instances.h"
#include "matmul/cpu/walk.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

namespace {

// Sizes in bytes and in steps of k, all clipped to the problem.
template <class Math>
struct Layout {
  using Step = typename Math::Step;
  using Element = typename Math::Element;
  static constexpr int64_t kAUnit = sizeof(typename Step::AUnit);
  static constexpr int64_t kBUnit = sizeof(typename Step::BUnit);

  int64_t steps, block_steps, k_blocks;
  int64_t block_m, m_blocks, group_panels, panels;
  int64_t panel_stride;  // units, where B is packed as a whole
  int64_t part_rows, part_panels;
  bool copies_a;
  int64_t a_row;  // bytes
  int64_t a_bytes, shared_b_bytes, private_b_bytes, sums_bytes;
  bool solo;  // threads share out the batch and each works alone

  explicit Layout(const MatmulGeometry& g) {
    steps = ceil_div(g.k, Step::kDepth);
    block_steps = max(1, min(ceil_div(g.block_k, Step::kDepth), steps));
    k_blocks = max(1, ceil_div(steps, block_steps));
    block_m = min(round_up(g.block_m, g.tile_m), g.m);
    m_blocks = ceil_div(g.m, block_m);
    panels = ceil_div(g.n, kPanel);
    panel_stride = steps * kPanel;
    group_panels = max(g.tile_n / kPanel, min(g.block_n / kPanel, panels));
    solo = g.batch_count > 1 && g.parts_m * g.parts_n == 1;
    part_rows = min(block_m, ceil_div(ceil_div(block_m, g.tile_m), g.parts_m) * g.tile_m);
    part_panels = ceil_div(panels, g.parts_n);
    group_panels = min(group_panels, part_panels);

    // A is read where it lies if its elements are what the kernel multiplies, unless more rows than L1 has
    // ways fall into the same few of its sets, as they do where they are a multiple of 2 KB apart.
    const bool same = g.a_k == 1 && g.k % Step::kDepth == 0 && sizeof(Element) * Step::kDepth == kAUnit;
    a_row = g.a_m * static_cast<int64_t>(sizeof(Element));
    copies_a = !same || (a_row % 2048 == 0 && min(g.tile_m, block_m) > 8);
    // An odd number of lines: rows of the copy begin in different sets.
    if (copies_a) a_row = (ceil_div(steps * kAUnit, kLine) | 1) * kLine;
    a_bytes = copies_a ? block_m * a_row + kApart : 0;
    const int64_t panel_bytes = kPanel * kBUnit;
    shared_b_bytes = g.pack_b == PackB::shared ? panels * steps * panel_bytes + kApart : 0;
    private_b_bytes = g.pack_b == PackB::private_ ? group_panels * block_steps * panel_bytes + kApart : 0;
    // One tile is enough unless sums wait for the next block of K.
    const int64_t sums = k_blocks > 1 ? part_rows * group_panels * kPanel : g.tile_m * g.tile_n;
    sums_bytes = round_up(sums * 4, kLine) + kApart;
  }

  int64_t thread_bytes() const {
    return private_b_bytes + sums_bytes + (solo ? a_bytes : 0);
  }

  int64_t team_bytes() const {
    return shared_b_bytes + (solo ? 0 : a_bytes);
  }

  // Threads without a part would only have to be woken.
  int threads(const MatmulGeometry& g) const {
    return static_cast<int>(min(g.threads, solo ? g.batch_count : g.parts_m * g.parts_n));
  }
};

// Rows of A that one tile takes.
struct Strip {
  int64_t row;
  int rows;
};

TW_INLINE Strip strip_at(int64_t rows, int64_t strips, int64_t index) {
  const int64_t row = share(rows, strips, index);
  return {row, static_cast<int>(share(rows, strips, index + 1) - row)};
}

// One thread's view of a product: what it works with while it computes parts of one batch entry.
template <class Math>
struct Worker {
  using Step = typename Math::Step;
  using T = typename Math::Element;
  using AUnit = typename Step::AUnit;
  using BUnit = typename Step::BUnit;

  const MatmulGeometry& g;
  const Layout<Math>& layout;
  char* a_copy;     // null: A is read where it lies
  BUnit* b_packed;  // the whole of B in panels, or this thread's block of it
  float* sums;

  // Which block of B this thread's private buffer holds. The number of panels is part of the name: where B is
  // expanded along n, every block of it begins at the same address.
  const T* held = nullptr;
  int64_t held_panels = 0;

  const char* a_block = nullptr;  // the rows at hand, layout.a_row bytes apart

  // Makes the rows row0 … of A readable for the kernel: all threads copy a share of them, or nobody does.
  void read_a(const T* a, int64_t row0, int64_t rows, int thread, int team) {
    const T* from = a + row0 * g.a_m;
    if (!layout.copies_a) {
      a_block = reinterpret_cast<const char*>(from);
      return;
    }
    // Shared out along K as well, since there may be fewer rows than threads.
    constexpr int64_t kChunk = 512;  // steps
    const int64_t chunks = max(1, ceil_div(layout.steps, kChunk));
    const int64_t bands = ceil_div(rows, kLanes);
    const int64_t jobs = bands * chunks;
    for (int64_t job = share(jobs, team, thread), end = share(jobs, team, thread + 1); job < end; ++job) {
      const int64_t row = job / chunks * kLanes;
      const int64_t step0 = job % chunks * kChunk;
      const int64_t k = min(kChunk * Step::kDepth, g.k - step0 * Step::kDepth);
      pack_rows(reinterpret_cast<AUnit*>(a_copy + row * layout.a_row) + step0,
                layout.a_row / Layout<Math>::kAUnit, from + row * g.a_m + step0 * Step::kDepth * g.a_k, g.a_m,
                g.a_k, min(kLanes, rows - row), k);
    }
    a_block = a_copy;
  }

  // `count` steps from step0 of one panel.
  static void pack_b_panel(BUnit* to, const T* b, const MatmulGeometry& g, int64_t panel, int64_t step0,
                           int64_t count) {
    const int64_t col = panel * kPanel;
    pack_panel(to, b + col * g.b_n + step0 * Step::kDepth * g.b_k, g.b_n, g.b_k, kPanel,
               static_cast<int>(min(kPanel, g.n - col)),
               min(count * Step::kDepth, g.k - step0 * Step::kDepth));
  }

  // [panel][step][column], whole K: a thread's share of the panels.
  static void pack_b(BUnit* to, const T* b, const MatmulGeometry& g, const Layout<Math>& layout, int thread,
                     int team) {
    for (int64_t panel = share(layout.panels, team, thread), end = share(layout.panels, team, thread + 1);
         panel < end; ++panel) {
      pack_b_panel(to + panel * layout.panel_stride, b, g, panel, 0, layout.steps);
    }
  }

  // The part of C in row block (row0, rows) that lies at (part_m, part_n) of the grid.
  void multiply_part(const BatchEntry& entry, int64_t row0, int64_t rows, int64_t part_m, int64_t part_n) {
    const int64_t strips = ceil_div(rows, g.tile_m);
    const int64_t strip0 = share(strips, g.parts_m, part_m), strip1 = share(strips, g.parts_m, part_m + 1);
    const int64_t panel0 = share(layout.panels, g.parts_n, part_n);
    const int64_t panel1 = share(layout.panels, g.parts_n, part_n + 1);
    if (strip0 == strip1 || panel0 == panel1) return;
    const int64_t groups = ceil_div(panel1 - panel0, layout.group_panels);
    const Epilogue epilogue = advance(entry.epilogue, row0, 0);
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t first = panel0 + share(panel1 - panel0, groups, group);
      const int64_t last = panel0 + share(panel1 - panel0, groups, group + 1);
      for (int64_t kb = 0; kb < layout.k_blocks; ++kb) {
        multiply_block(entry, epilogue, rows, strip0, strip1, first, last, kb, {panel0, panel1});
      }
    }
  }

 private:
  // The panels of a part.
  struct Part {
    int64_t begin, end;
  };

  // Panels first … last against the strips, for one block of K.
  void multiply_block(const BatchEntry& entry, const Epilogue& epilogue, int64_t rows, int64_t strip0,
                      int64_t strip1, int64_t first, int64_t last, int64_t kb, const Part& part) {
    const int64_t step0 = kb * layout.block_steps;
    const int64_t count = min(layout.block_steps, layout.steps - step0);
    const int64_t strips = ceil_div(rows, g.tile_m);
    const int64_t own_strips = strip1 - strip0;
    const int64_t panels = last - first;
    const bool final = kb == layout.k_blocks - 1;
    TileArguments tile{};
    tile.steps = count;
    tile.a_row = layout.a_row;
    tile.accumulate = kb > 0;
    const BUnit* b = b_packed;
    uintptr_t next = 0;  // of B after this block; 0: it is not there to be fetched
    if (g.pack_b == PackB::private_) {
      tile.panel_stride = count * kPanel;
      hold(static_cast<const T*>(entry.b), first, panels, step0, count);
    } else {
      tile.panel_stride = layout.panel_stride;
      b += first * layout.panel_stride + step0 * kPanel;
      if (g.prefetch > 0) next = next_block(b, first, last, kb, count, part.end);
    }
    constexpr int64_t kRowBytes = kPanel * static_cast<int64_t>(sizeof(BUnit));

    const int wide = g.tile_n / kPanel;
    const bool in_registers = final && finishes_in_registers<typename Step::Result>(epilogue);
    // Rows of A that are read for the first time here are one piece of memory, but read as many streams, too
    // many for the hardware to follow. They are fetched a strip ahead, unless the next block of B is the
    // larger of the two.
    const bool fetches_rows = !layout.copies_a && layout.k_blocks == 1 && first == part.begin &&
                              layout.a_row == count * Layout<Math>::kAUnit && count > 0 &&
                              own_strips * g.tile_m * layout.a_row > panels * count * kRowBytes;
    const int64_t rows_share = ceil_div(g.tile_m * layout.a_row, ceil_div(panels, wide));
    const Strip strip_first = strip_at(rows, strips, strip0);
    const int64_t strip_end = share(rows, strips, strip1);
    for (int64_t s = strip0; s < strip1; ++s) {
      const Strip strip = strip_at(rows, strips, s);
      tile.a = a_block + strip.row * layout.a_row + step0 * Layout<Math>::kAUnit;
      for (int64_t panel = first; panel < last; panel += wide) {
        const int64_t col = panel * kPanel;
        const int64_t cols = min(min(wide, last - panel) * kPanel, g.n - col);
        const int vectors = static_cast<int>(ceil_div(cols, kLanes));
        const int width = vectors == 3 ? 4 * kLanes : vectors * kLanes;
        tile.b = b + (panel - first) * tile.panel_stride;
        tile.c = sums;
        if (layout.k_blocks > 1) {
          tile.c += (strip.row - strip_first.row) * panels * kPanel + (panel - first) * kPanel * strip.rows;
        }
        tile.prefetch = reinterpret_cast<uintptr_t>(tile.a);
        tile.prefetch_step = 0;
        if (fetches_rows) {
          tile.prefetch +=
              static_cast<uintptr_t>(strip.rows * layout.a_row + rows_share * ((panel - first) / wide));
          tile.prefetch_step = ceil_div(rows_share, count);
        } else if (next != 0) {
          // Each strip fetches its share of the next block, so that it is in L2 when this one is done. A
          // single strip reads B but once: it fetches ahead in the panel that it is in.
          tile.prefetch = own_strips == 1
                              ? reinterpret_cast<uintptr_t>(tile.b) + static_cast<uintptr_t>(g.prefetch)
                              : next + static_cast<uintptr_t>((panel - first) * tile.panel_stride *
                                                                  static_cast<int64_t>(sizeof(BUnit)) +
                                                              count * kRowBytes / own_strips * (s - strip0));
          tile.prefetch_step = kRowBytes / own_strips;
        }
        TileStore store;
        tile.store = nullptr;
        if (final) fetch_results(epilogue, strip, strip_end, first, last, panel);
        if (in_registers && cols == width) {
          place_run(store, 0, advance(epilogue, strip.row, col));
          tile.store = &store;
        }
        kTiles<Step>.at[strip.rows][vectors](tile);
        if (final && tile.store == nullptr) {
          finish_tile(tile.c, width, strip.rows, cols, advance(epilogue, strip.row, col));
        }
      }
    }
  }

  // Fetches the lines of C that are written kResultsAhead panels later. Stores follow one another through as
  // many rows as the tile has, which the hardware does not foresee: where C is not in the caches and K is
  // short, they took twice as long as the products. Inlined, for g++ drops calls of functions that only
  // fetch.
  TW_INLINE void fetch_results(const Epilogue& epilogue, const Strip& strip, int64_t strip_end, int64_t first,
                               int64_t last, int64_t panel) const {
    constexpr int64_t kResultsAhead = 4;
    const int64_t wide = g.tile_n / kPanel;
    int64_t row = strip.row;
    panel += kResultsAhead;
    if (panel >= last) {
      panel -= last - first;
      row += strip.rows;
      if (panel >= last || row + strip.rows > strip_end) return;
    }
    const int64_t col = panel * kPanel;
    const int64_t bytes = min(wide * kPanel, g.n - col) * size_of(epilogue.out_dtype);
    const int64_t row_bytes = epilogue.out_row * size_of(epilogue.out_dtype);
    const char* at =
        static_cast<const char*>(advance(epilogue.out, row * epilogue.out_row + col, epilogue.out_dtype));
    for (int i = 0; i < strip.rows; ++i) {
      for (int64_t offset = 0; offset < bytes; offset += kLine) {
        __builtin_prefetch(at + i * row_bytes + offset, 1, 3);
      }
    }
  }

  // Packs the block of B that begins at (panel `first`, step0) into this thread's buffer, unless it is there.
  void hold(const T* b, int64_t first, int64_t panels, int64_t step0, int64_t count) {
    const T* name = b + first * kPanel * g.b_n + step0 * Step::kDepth * g.b_k;
    if (layout.k_blocks == 1 && held == name && held_panels == panels) return;
    for (int64_t panel = 0; panel < panels; ++panel) {
      pack_b_panel(b_packed + panel * count * kPanel, b, g, first + panel, step0, count);
    }
    held = name;
    held_panels = panels;
  }

  // Where the block of B lies that this thread reads after (first … last, kb).
  uintptr_t next_block(const BUnit* here, int64_t first, int64_t last, int64_t kb, int64_t count,
                       int64_t end_panel) const {
    if (kb + 1 < layout.k_blocks) return reinterpret_cast<uintptr_t>(here + count * kPanel);
    if (last < end_panel) return reinterpret_cast<uintptr_t>(b_packed + last * layout.panel_stride);
    return reinterpret_cast<uintptr_t>(b_packed + first * layout.panel_stride);
  }
};

struct Run {
  const MatmulGeometry* geometry;
  const MatmulPointers* pointers;
  const void* layout;
  char* workspace;
};

template <class Math>
void work(void* context, int thread, int team) {
  using BUnit = typename Math::Step::BUnit;
  const Run& run = *static_cast<const Run*>(context);
  const MatmulGeometry& g = *run.geometry;
  const Layout<Math>& layout = *static_cast<const Layout<Math>*>(run.layout);
  using T = typename Math::Element;

  // Shared by the team: A, B. Then each thread's own: B, sums, A where it works alone.
  char* shared_b = run.workspace;
  char* shared_a = shared_b + layout.shared_b_bytes;
  char* own_b = run.workspace + layout.team_bytes() + thread * layout.thread_bytes();
  char* own_sums = own_b + layout.private_b_bytes;
  char* own_a = own_sums + layout.sums_bytes;
  BUnit* b_packed = reinterpret_cast<BUnit*>(own_b);
  if (g.pack_b == PackB::shared) b_packed = reinterpret_cast<BUnit*>(shared_b);
  if (g.pack_b == PackB::frozen) b_packed = static_cast<BUnit*>(const_cast<void*>(run.pointers->b));
  Worker<Math> worker{g, layout, layout.solo ? own_a : shared_a, b_packed,
                      reinterpret_cast<float*>(own_sums)};

  // A lone thread is a team of one, with its share of the batch.
  const int mate = layout.solo ? 0 : thread, mates = layout.solo ? 1 : team;
  const int64_t begin = layout.solo ? share(g.batch_count, team, thread) : 0;
  const int64_t end = layout.solo ? share(g.batch_count, team, thread + 1) : g.batch_count;
  const int64_t parts = g.parts_m * g.parts_n;
  for (int64_t index = begin; index < end; ++index) {
    const BatchEntry entry = batch_entry(g, *run.pointers, index);
    for (int64_t mb = 0; mb < layout.m_blocks; ++mb) {
      const int64_t row0 = mb * layout.block_m;
      const int64_t rows = min(layout.block_m, g.m - row0);
      if (layout.copies_a && (index > begin || mb > 0)) barrier(mates);  // the copy is still being read
      if (g.pack_b == PackB::shared && mb == 0) {
        Worker<Math>::pack_b(b_packed, static_cast<const T*>(entry.b), g, layout, mate, mates);
      }
      worker.read_a(static_cast<const T*>(entry.a), row0, rows, mate, mates);
      if (layout.copies_a || (g.pack_b == PackB::shared && mb == 0)) barrier(mates);
      for (int64_t part = mate; part < parts; part += mates) {
        worker.multiply_part(entry, row0, rows, part % g.parts_m, part / g.parts_m);
      }
    }
  }
}

template <class Math>
void run_with(const MatmulGeometry& g, const MatmulPointers& pointers, void* workspace) {
  const Layout<Math> layout(g);
  Run run{&g, &pointers, &layout, static_cast<char*>(workspace)};
  parallel(layout.threads(g), work<Math>, &run);
}

template <class Math>
size_t workspace_of(const MatmulGeometry& g) {
  const Layout<Math> layout(g);
  return static_cast<size_t>(layout.team_bytes() + layout.thread_bytes() * layout.threads(g));
}

template <class Math>
size_t packed_bytes_of(const MatmulGeometry& g) {
  const Layout<Math> layout(g);
  return static_cast<size_t>(layout.panels * layout.panel_stride * Layout<Math>::kBUnit);
}

template <class Math>
void pack_whole(void* context, int thread, int team) {
  const Run& run = *static_cast<const Run*>(context);
  Worker<Math>::pack_b(reinterpret_cast<typename Math::Step::BUnit*>(run.workspace),
                       static_cast<const typename Math::Element*>(run.pointers->b), *run.geometry,
                       *static_cast<const Layout<Math>*>(run.layout), thread, team);
}

template <class Math>
void pack_with(const MatmulGeometry& g, const void* b, void* packed) {
  const Layout<Math> layout(g);
  const MatmulPointers pointers{nullptr, b, nullptr, nullptr, nullptr, nullptr};
  Run run{&g, &pointers, &layout, static_cast<char*>(packed)};
  parallel(g.threads, pack_whole<Math>, &run);
}

void run_f32(const MatmulGeometry& g, const MatmulPointers& pointers, void* workspace) {
  with_math(g.dtype, [&](auto math) { run_with<decltype(math)>(g, pointers, workspace); });
}

size_t workspace_f32(const MatmulGeometry& g) {
  return with_math(g.dtype, [&](auto math) { return workspace_of<decltype(math)>(g); });
}

size_t packed_bytes_f32(const MatmulGeometry& g) {
  return with_math(g.dtype, [&](auto math) { return packed_bytes_of<decltype(math)>(g); });
}

void pack_f32(const MatmulGeometry& g, const void* b, void* packed) {
  with_math(g.dtype, [&](auto math) { pack_with<decltype(math)>(g, b, packed); });
}

constexpr MatmulKernel f32_tile(int tile_m, int panels) {
  return {"gemm", Compute::f32, tile_m, panels * kPanel, run_f32, workspace_f32, packed_bytes_f32, pack_f32};
}

#if defined(__AVX512F__)
constexpr MatmulKernel bf16_tile(int tile_m, int panels) {
  return {"gemm",
          Compute::bf16,
          tile_m,
          panels * kPanel,
          run_with<Bf16>,
          workspace_of<Bf16>,
          packed_bytes_of<Bf16>,
          pack_with<Bf16>};
}
#endif

}  // namespace

extern const MatmulKernel kGemm[];
constinit const MatmulKernel kGemm[] = {
    f32_tile(kMaxRows, 1),
#if defined(__AVX512F__) || defined(__aarch64__)
    f32_tile(kMaxRowsWide, 2),
#endif
#if defined(__AVX512F__)
    bf16_tile(kMaxRows, 1),
    bf16_tile(kMaxRowsWide, 2),
#endif
    {},
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
