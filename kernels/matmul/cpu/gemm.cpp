// Blocked, packed, register-tiled matrix product. The walk is drawn in ../README.md.
//
// A task is one block_m × block_n block of one batch entry's C. For each block_k of K it packs the block of B
// (which then stays in L2), and for every strip of tile_m rows packs that strip of A (which then stays in L1)
// and runs the micro-kernel along the block of B. After the last block_k the epilogue finishes the tile while
// it is in L1. No thread waits for another, and each element of C is summed in an order that block_k alone
// decides.
#include "cpu/threads.h"
#include "instances.h"
#include "microkernel.h"
#include "pack.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

namespace {

struct Layout {
  int64_t block_m, block_n, block_k;  // clipped to the problem
  int64_t k_blocks, m_blocks, n_blocks;
  int64_t b_floats, a_floats, c_floats;

  explicit Layout(const MatmulGeometry& g) {
    block_m = min(g.block_m, g.m);
    block_n = min(g.block_n, g.n);
    block_k = min(g.block_k, g.k);
    k_blocks = g.k == 0 ? 1 : ceil_div(g.k, block_k);
    m_blocks = ceil_div(g.m, block_m);
    n_blocks = ceil_div(g.n, block_n);
    // 64 floats between the areas: they would otherwise start at the same L1 set.
    b_floats = round_up(block_n, kLanes) * block_k + 64;
    a_floats = round_up(g.tile_m * block_k, 16) + 64;
    // One tile is enough unless sums wait for the next block of K.
    c_floats = (k_blocks > 1 ? block_m * round_up(block_n, kLanes) : g.tile_m * g.tile_n) + 64;
  }

  int64_t floats() const {
    return round_up(b_floats, 16) + round_up(a_floats, 16) + round_up(c_floats, 16);
  }

  // Threads without a task would only have to be woken.
  int threads(const MatmulGeometry& g) const {
    return static_cast<int>(min(g.threads, m_blocks * n_blocks * g.batch_count));
  }
};

struct Run {
  const MatmulGeometry* geometry;
  const MatmulPointers* pointers;
  Layout layout;
  float* workspace;
};

template <class T>
void pack_b(float* to, const T* b, const MatmulGeometry& g, int64_t n, int64_t k) {
  for (int64_t col = 0; col < n; col += g.tile_n) {
    const int valid = static_cast<int>(min(g.tile_n, n - col));
    const int width = static_cast<int>(round_up(valid, kLanes));
    pack_panel(to + col * k, b + col * g.b_n, g.b_n, g.b_k, width, valid, k);
  }
}

// Names the block of B that a thread's workspace holds. The count of columns is part of the name: where B is
// expanded along n, every block of it begins at the same address.
struct PackedBlock {
  const void* b = nullptr;
  int64_t cols = 0;
};

// One block of C.
template <class T>
void multiply_block(const Run& run, float* workspace, const BatchEntry& entry, int64_t row0, int64_t col0,
                    PackedBlock& packed) {
  const MatmulGeometry& g = *run.geometry;
  const Layout& layout = run.layout;
  float* b_block = workspace;
  float* a_strip = b_block + round_up(layout.b_floats, 16);
  float* c_tiles = a_strip + round_up(layout.a_floats, 16);
  const int64_t rows = min(layout.block_m, g.m - row0);
  const int64_t cols = min(layout.block_n, g.n - col0);
  const Epilogue epilogue = advance(entry.epilogue, row0, col0);

  for (int64_t kb = 0; kb < layout.k_blocks; ++kb) {
    const int64_t k0 = kb * layout.block_k;
    const int64_t k = min(layout.block_k, g.k - k0);
    const T* a = static_cast<const T*>(entry.a) + row0 * g.a_m + k0 * g.a_k;
    const T* b = static_cast<const T*>(entry.b) + col0 * g.b_n + k0 * g.b_k;
    if (b != packed.b || cols != packed.cols) pack_b(b_block, b, g, cols, k);
    if (layout.k_blocks == 1) packed = {b, cols};

    for (int64_t row = 0; row < rows; row += g.tile_m) {
      const int tile_rows = static_cast<int>(min(g.tile_m, rows - row));
      pack_panel(a_strip, a + row * g.a_m, g.a_m, g.a_k, tile_rows, tile_rows, k);
      for (int64_t col = 0; col < cols; col += g.tile_n) {
        const int64_t tile_cols = min(g.tile_n, cols - col);
        const int vectors = static_cast<int>(ceil_div(tile_cols, kLanes));
        float* tile = c_tiles;
        if (layout.k_blocks > 1) tile += row * round_up(cols, kLanes) + col * tile_rows;
        kTiles.at[tile_rows][vectors](k, a_strip, b_block + col * k, tile, kb > 0);
        if (kb == layout.k_blocks - 1) {
          finish_tile(tile, vectors * kLanes, tile_rows, tile_cols, advance(epilogue, row, col));
        }
      }
    }
  }
}

template <class T>
void work(void* context, int thread, int team) {
  const Run& run = *static_cast<const Run*>(context);
  const MatmulGeometry& g = *run.geometry;
  const int64_t blocks = run.layout.m_blocks * run.layout.n_blocks;
  const int64_t tasks = blocks * g.batch_count;
  float* workspace = run.workspace + thread * run.layout.floats();
  PackedBlock packed;
  for (int64_t task = tasks / team * thread + min(thread, tasks % team),
               end = task + tasks / team + (thread < tasks % team ? 1 : 0);
       task < end; ++task) {
    const BatchEntry entry = batch_entry(g, *run.pointers, task / blocks);
    // Consecutive tasks go down M, so that with a single block of K they share the packed B.
    const int64_t block = task % blocks;
    multiply_block<T>(run, workspace, entry, block % run.layout.m_blocks * run.layout.block_m,
                      block / run.layout.m_blocks * run.layout.block_n, packed);
  }
}

void run_gemm(const MatmulGeometry& g, const MatmulPointers& pointers, void* workspace) {
  Run run{&g, &pointers, Layout(g), static_cast<float*>(workspace)};
  const int threads = run.layout.threads(g);
  switch (g.dtype) {
    case Dtype::f32:
      return parallel(threads, work<float>, &run);
    case Dtype::bf16:
      return parallel(threads, work<bf16>, &run);
    case Dtype::f16:
      return parallel(threads, work<f16>, &run);
  }
}

size_t gemm_workspace(const MatmulGeometry& g) {
  const Layout layout(g);
  return static_cast<size_t>(layout.floats()) * sizeof(float) * static_cast<size_t>(layout.threads(g));
}

constexpr MatmulKernel gemm_tile(int vectors) {
  return {"gemm", kMaxRows[vectors], vectors * kLanes, run_gemm, gemm_workspace};
}

}  // namespace

extern const MatmulKernel kGemm[];
constinit const MatmulKernel kGemm[] = {
    gemm_tile(1), gemm_tile(2), gemm_tile(3),
#if defined(__AVX512F__)
    gemm_tile(4),
#endif
    {},
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
