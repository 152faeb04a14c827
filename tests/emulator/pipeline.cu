// A multi-stage cp.async product like the sm_80 family's main loop, with the bugs that such loops have.
//
//   C (m x n, fp32) = A (m x k, rows) · B (n x k, rows) transposed; blocks of 64 x 64, steps of 32, 3 stages.
#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/mma.cuh"
#include "harness.h"

using namespace tilewright;
using emulator::Use;
using harness::Global;

namespace {

enum Mutation {
  kNone,
  kWaitOffByOne,       // one group more may be open than the stage read allows
  kNoBarrier,          // after the wait: the others' copies may not have landed
  kLoadBeforeBarrier,  // the stage that is filled may still be read
  kLoadTooFar,         // fills the stage that is being read
  kCommitOnlyLoads,    // no empty groups at the end, so the waits count wrongly
  kCommitFirst,        // the group is closed before its copies are issued
  kNoRowGuard,         // rows beyond m are copied
  kNoDepthGuard,       // columns beyond k are copied
  kNoStoreGuard,       // rows beyond m are stored
  kNoDrain,            // staging takes the stages' memory before they are read
  kNoStagingBarrier,   // other warps' staged sums are read at once
  kStageStride,        // stages overlap by a row
  kMemoryTooSmall,     // the launch asks for 16 bytes less than are used
  kUnalignedRows,      // 16-byte copies of rows that 8 bytes divide
  kLoadMatrixAligned,  // a fragment's rows 8 bytes off
  kOverlappingBlocks,  // the last blocks compute the same columns
  kSplitWithoutSum,    // two blocks add to C
  kNoSwizzle,          // right, but with bank conflicts
};

constexpr int kBlock = 64;
constexpr int kDepth = 32;
constexpr int kStages = 3;
constexpr int kTile = kBlock * kDepth;
constexpr int kThreads = 128;
constexpr size_t kShared = kStages * 2 * kTile * sizeof(__nv_bfloat16);
using bf16 = __nv_bfloat16;

struct Arguments {
  const bf16* a;
  const bf16* b;
  float* c;
  int m, n, k;
  int row;  // elements from row to row, of A and B
  int mutation;
};

// Rows of 4 chunks of 16 bytes; the chunk's place turns with the row, so that 8 rows of a matrix lie in
// different banks.
TILEWRIGHT_DEVICE int place(int row, int chunk, int mutation) {
  const int turn = mutation == kNoSwizzle ? 0 : row / 2 % 4;
  return row * kDepth + (chunk ^ turn) * 8;
}

TILEWRIGHT_DEVICE void load_tile(bf16* tile, const bf16* operand, int first, int rows, int step,
                                 const Arguments& p) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile / 8; i += kThreads) {
    const int row = i / 4;
    const int chunk = i % 4;
    const int column = step * kDepth + chunk * 8;
    const int left = (p.k - column) * 2;
    int valid = left < 0 ? 0 : left < 16 ? left : 16;
    if (p.mutation == kNoDepthGuard) valid = 16;
    if (first + row >= rows && p.mutation != kNoRowGuard) valid = 0;
    const bf16* const from = operand + static_cast<int64_t>(first + row) * p.row + column;
    ptx::cp_async<16>(tile + place(row, chunk, p.mutation), valid > 0 ? from : operand, valid);
  }
}

TILEWRIGHT_KERNEL void __launch_bounds__(kThreads) product(const Arguments p) {
  TILEWRIGHT_SHARED(shared);
  const int stage_stride = 2 * kTile - (p.mutation == kStageStride ? kDepth : 0);
  const auto tile_a = [&](int stage) { return reinterpret_cast<bf16*>(shared) + stage * stage_stride; };
  const auto tile_b = [&](int stage) { return tile_a(stage) + kTile; };
  const int lane = ptx::lane_id();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_m = warp / 2 * 32;
  const int warp_n = warp % 2 * 32;
  int block_m = static_cast<int>(blockIdx.y) * kBlock;
  int block_n = static_cast<int>(blockIdx.x) * kBlock;
  if (p.mutation == kOverlappingBlocks && block_n + kBlock > p.n) block_n = p.n - kBlock;
  if (p.mutation == kSplitWithoutSum) block_n = 0;
  const int steps = (p.k + kDepth - 1) / kDepth;
  const int ahead = p.mutation == kLoadTooFar ? kStages : kStages - 1;

  const auto load = [&](int step) {
    load_tile(tile_a(step % kStages), p.a, block_m, p.m, step, p);
    load_tile(tile_b(step % kStages), p.b, block_n, p.n, step, p);
  };
  for (int step = 0; step < kStages - 1; ++step) {
    if (p.mutation == kCommitFirst) ptx::cp_async_commit();
    if (step < steps) load(step);
    if (p.mutation != kCommitFirst) ptx::cp_async_commit();
  }

  float sums[2][4][4] = {};
  for (int step = 0; step < steps; ++step) {
    if (p.mutation == kWaitOffByOne) {
      ptx::cp_async_wait<kStages - 1>();
    } else {
      ptx::cp_async_wait<kStages - 2>();
    }
    if (p.mutation == kLoadBeforeBarrier && step + ahead < steps) load(step + ahead);
    if (p.mutation != kNoBarrier) ptx::sync_threads();
    if (p.mutation != kLoadBeforeBarrier && step + ahead < steps) load(step + ahead);
    if (p.mutation != kCommitOnlyLoads || step + ahead < steps) ptx::cp_async_commit();
    const bf16* const a = tile_a(step % kStages) + (p.mutation == kLoadMatrixAligned ? 4 : 0);
    const bf16* const b = tile_b(step % kStages);
    for (int part = 0; part < kDepth / 16; ++part) {
      uint32_t a_words[2][4];
      uint32_t b_words[4][2];
      for (int i = 0; i < 2; ++i) {
        ptx::ldmatrix_x4(a_words[i],
                         a + place(warp_m + i * 16 + lane % 16, part * 2 + lane / 16, p.mutation));
      }
      for (int j = 0; j < 4; j += 2) {
        uint32_t pair[4];
        const int row = warp_n + j * 8 + lane % 8 + lane / 16 * 8;
        ptx::ldmatrix_x4(pair, b + place(row, part * 2 + lane / 8 % 2, p.mutation));
        for (int i = 0; i < 4; ++i) b_words[j + i / 2][i % 2] = pair[i];
      }
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 4; ++j) ptx::mma_m16n8k16<bf16>(sums[i][j], a_words[i], b_words[j]);
      }
    }
  }

  // Through shared memory, so that whole rows are stored: 64 rows of 66 floats.
  ptx::cp_async_wait<0>();
  if (p.mutation != kNoDrain) ptx::sync_threads();
  float* const staged = reinterpret_cast<float*>(shared);
  constexpr int kRow = kBlock + 2;
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int q = 0; q < 4; ++q) {
        const int row = warp_m + i * 16 + lane / 4 + q / 2 * 8;
        staged[row * kRow + warp_n + j * 8 + lane % 4 * 2 + q % 2] = sums[i][j][q];
      }
    }
  }
  if (p.mutation != kNoStagingBarrier) ptx::sync_threads();
  for (int i = static_cast<int>(threadIdx.x); i < kBlock * kBlock; i += kThreads) {
    const int row = block_m + i / kBlock;
    const int column = block_n + i % kBlock;
    if ((row < p.m || p.mutation == kNoStoreGuard) && column < p.n) {
      p.c[static_cast<int64_t>(row) * p.n + column] = staged[i / kBlock * kRow + i % kBlock];
    }
  }
}

bool run(int mutation, int m, int n, int k) {
  const int row = mutation == kUnalignedRows ? k + 4 : k;
  const auto rows = [&](int count) { return static_cast<size_t>((count - 1) * row + k); };
  Global<bf16> a(rows(m), Use::input, "a");
  Global<bf16> b(rows(n), Use::input, "b");
  Global<float> c(static_cast<size_t>(m) * static_cast<size_t>(n), Use::output, "c");
  for (uint32_t i = 0; i < a.size(); ++i) a[i] = __float2bfloat16(harness::whole(i));
  for (uint32_t i = 0; i < b.size(); ++i) b[i] = __float2bfloat16(harness::whole(i + 77));
  const auto blocks = [](int size) { return static_cast<unsigned>((size + kBlock - 1) / kBlock); };
  const size_t shared = mutation == kMemoryTooSmall ? kShared - 16 : kShared;
  cuda::launch(product, {dim3(blocks(n), blocks(m)), kThreads, 1, shared}, nullptr,
               Arguments{a.data(), b.data(), c.data(), m, n, k, row, mutation});
  bool right = true;
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      float sum = 0;
      for (int l = 0; l < k; ++l) {
        sum += __bfloat162float(a[static_cast<size_t>(i * row + l)]) *
               __bfloat162float(b[static_cast<size_t>(j * row + l)]);
      }
      right &= c[static_cast<size_t>(i * n + j)] == sum;
    }
  }
  return right;
}

const harness::Registration pipeline({"pipeline",
                                      {"wait_off_by_one", "no_barrier", "load_before_barrier", "load_too_far",
                                       "commit_only_loads", "commit_first", "no_row_guard", "no_depth_guard",
                                       "no_store_guard", "no_drain", "no_staging_barrier", "stage_stride",
                                       "memory_too_small", "unaligned_rows", "load_matrix_aligned",
                                       "overlapping_blocks", "split_without_sum", "no_swizzle"},
                                      [](int mutation) {
                                        bool right = run(mutation, 72, 80, 168);
                                        if (mutation == kNone)
                                          right &= run(mutation, 1, 1, 8) && run(mutation, 64, 64, 32);
                                        return right;
                                      }});

}  // namespace
