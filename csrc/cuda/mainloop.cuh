// The main loop of the sm_80 family: acc += A·B over tiles of k, copies running ahead through a ring of
// shared tiles, fragments through two sets of registers.
//
//     tile of k        0        1        2        3
//     copies      [A0 B0]  [A1 B1]  [A2 B2]  [A3 B3]     cp.async, kStages - 1 tiles ahead
//     stage            0        1        2        0      (three stages)
//     steps        0 1 2 3  0 1 2 3  0 1 2 3             of kDepth each
//     fragments   loaded one step before they are multiplied, also across tiles
//
// One barrier a tile, before its last step: it says that the next tile has landed for every thread, and that
// nobody reads the tile before this one any more, whose stage the next copies overwrite.
#pragma once

#include "cuda/mma_atom.cuh"

namespace tilewright::cuda {

// What a block computes: block_m x block_n sums over block_k at a time, by warps_m x warps_n warps.
template <class T, int block_m, int block_n, int block_k, int warps_m, int warps_n, int stages, Major a_major,
          Major b_major>
struct BlockShape {
  using Type = T;
  using Element = typename Math<T>::Element;
  using ATile = OperandTile<Element, a_major, block_m, block_k>;
  using BTile = OperandTile<Element, b_major, block_n, block_k>;
  static constexpr Major kAMajor = a_major, kBMajor = b_major;
  static constexpr int kM = block_m, kN = block_n, kK = block_k, kStages = stages;
  static constexpr int kWarpM = block_m / warps_m, kWarpN = block_n / warps_n;
  static constexpr int kWarpsM = warps_m, kThreads = warps_m * warps_n * 32;
  static constexpr int kRows = kWarpM / 16, kColumns = kWarpN / 8;  // fragments of a warp
  static constexpr int kSteps = block_k / Math<T>::kDepth;
  static constexpr int kStageBytes = ATile::kBytes + BTile::kBytes;
  static constexpr int kSharedBytes = stages * kStageBytes;
  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0 && kSteps % 2 == 0 && stages >= 2);

  using Accumulators = float[kRows][kColumns][4];

  // Where this thread's warp begins in the block's tile.
  static TILEWRIGHT_DEVICE int warp_row() {
    return static_cast<int>(threadIdx.x) / 32 % warps_m * kWarpM;
  }
  static TILEWRIGHT_DEVICE int warp_column() {
    return static_cast<int>(threadIdx.x) / 32 / warps_m * kWarpN;
  }
};

// acc += the product of `tiles` tiles of k. `shared` holds Shape::kSharedBytes. Ends without a barrier: one
// is due before `shared` is used again.
template <class Shape, class CopyA, class CopyB>
TILEWRIGHT_DEVICE void mainloop(typename Shape::Accumulators& acc, CopyA& copy_a, CopyB& copy_b,
                                unsigned char* shared, int tiles) {
  using T = typename Shape::Type;
  constexpr int kAhead = Shape::kStages - 1;
  if (tiles == 0) return;
  const Fragments<T, Shape::kAMajor, typename Shape::ATile, true, Shape::kRows> a(Shape::warp_row());
  const Fragments<T, Shape::kBMajor, typename Shape::BTile, false, Shape::kColumns> b(Shape::warp_column());
#pragma unroll
  for (int stage = 0; stage < kAhead; ++stage) {
    if (stage < tiles) {
      unsigned char* const to = shared + stage * Shape::kStageBytes;
      copy_a.issue(to);
      copy_b.issue(to + Shape::ATile::kBytes);
      copy_a.finish(to);
      copy_b.finish(to + Shape::ATile::kBytes);
    }
    ptx::cp_async_commit();
  }
  ptx::cp_async_wait<kAhead - 1>();
  ptx::sync_threads();

  uint32_t a_fragments[2][Shape::kRows][4], b_fragments[2][Shape::kColumns][2];
  int read = 0, write = kAhead * Shape::kStageBytes;  // offsets of stages
  a.load(a_fragments[0], shared, 0);
  b.load(b_fragments[0], shared + Shape::ATile::kBytes, 0);
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const bool copies = tile + kAhead < tiles;
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      const int now = step % 2, next = (step + 1) % 2;
      bool loads = true;
      if (step == Shape::kSteps - 1) {
        if (copies) {
          copy_a.finish(shared + write);
          copy_b.finish(shared + write + Shape::ATile::kBytes);
        }
        write = write == kAhead * Shape::kStageBytes ? 0 : write + Shape::kStageBytes;
        read = read == kAhead * Shape::kStageBytes ? 0 : read + Shape::kStageBytes;
        loads = tile + 1 < tiles;
        if (loads) {
          ptx::cp_async_wait<kAhead - 1>();
          ptx::sync_threads();
        }
      }
      if (loads) {
        a.load(a_fragments[next], shared + read, (step + 1) % Shape::kSteps);
        b.load(b_fragments[next], shared + read + Shape::ATile::kBytes, (step + 1) % Shape::kSteps);
      }
      if (step == 0) {
        if (copies) {
          copy_a.issue(shared + write);
          copy_b.issue(shared + write + Shape::ATile::kBytes);
        }
        ptx::cp_async_commit();
      }
#pragma unroll
      for (int i = 0; i < Shape::kRows; ++i) {
#pragma unroll
        for (int j = 0; j < Shape::kColumns; ++j) {
          // Back and forth, so that neighbours in time share a fragment of B as well.
          const int column = i % 2 == 0 ? j : Shape::kColumns - 1 - j;
          Math<T>::multiply(acc[i][column], a_fragments[now][i], b_fragments[now][column]);
        }
      }
    }
  }
}

}  // namespace tilewright::cuda
