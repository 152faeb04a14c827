// What host and device agree on for the sm_90a matmul: tiles, shared memory, the order of tiles.
#pragma once

#include "cuda/platform.cuh"

namespace tilewright::cuda {

// How two warpgroups share the work (kernels/matmul/README.md draws both).
enum class Schedule {
  cooperative,  // each has half of the tile's rows: sums for the largest tiles
  ping_pong     // each has tiles of its own: one stores while the other multiplies
};

// block_k is one span of the 128-byte swizzle. An operand in shared memory is 128-byte rows: of one row or
// column of the matrix with K along them (K-major), or of one k with 64 rows or columns along them (MN-major,
// 16-bit types only; block_k such rows, then the next 64 rows or columns).
template <class T, int block_m, int block_n, int stages, Schedule schedule, bool a_mn_major, bool b_mn_major>
struct Sm90Tile {
  using Element = T;
  static constexpr Schedule kSchedule = schedule;
  static constexpr bool kAMnMajor = a_mn_major, kBMnMajor = b_mn_major;
  static constexpr int kBlockM = block_m, kBlockN = block_n, kStages = stages;
  static constexpr int kRowBytes = 128;
  static constexpr int kBlockK = kRowBytes / static_cast<int>(sizeof(T));
  static constexpr int kStepK = 32 / static_cast<int>(sizeof(T));  // of one wgmma

  static constexpr int kConsumers = 2;  // warpgroups, beside the producer's
  static constexpr int kThreads = 128 * (1 + kConsumers);
  static constexpr int kGroupM = schedule == Schedule::cooperative ? block_m / kConsumers : block_m;
  static constexpr int kParts = kGroupM / 64;  // wgmma tiles of 64 rows in a warpgroup's share
  static constexpr int kSums = kParts * block_n / 2;
  // Registers of a thread: 65536 / 384 = 168 at the launch, then the producer's are given to the consumers.
  static constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

  // Of a cluster's two blocks: which operand they share, half fetched by each. The larger one; the blocks lie
  // along the other's dimension.
  static constexpr bool kSharesB = block_n >= block_m;

  // Shared memory: stages of A and B | slabs of 64 rows of y, for each consumer | its bias | barriers
  static constexpr int kABytes = block_m * kRowBytes, kBBytes = block_n * kRowBytes;
  static constexpr int kStageBytes = kABytes + kBBytes;
  static constexpr int kSlabBytes = 64 * kRowBytes, kSlabs = 2;
  static constexpr int kSlabOffset = stages * kStageBytes;
  static constexpr int kBiasOffset = kSlabOffset + kConsumers * kSlabs * kSlabBytes;
  static constexpr int kBarrierOffset = kBiasOffset + kConsumers * block_n * 4;
  static constexpr int kSharedBytes = kBarrierOffset + 2 * stages * 8;

  static_assert(block_m % 64 == 0 && block_n % 64 == 0 && kGroupM % 64 == 0);
  static_assert(sizeof(T) == 2 || !(a_mn_major || b_mn_major));
  static_assert(kSums <= 128, "sums would leave no registers for the epilogue");
  static_assert(kSharedBytes <= 227 * 1024);
};

// The problem as the device sees it.
struct Sm90Problem {
  int m, n, k;
  int cluster;        // blocks: 1 or 2
  int rows, columns;  // of the grid of tiles, in tiles of a whole cluster
  int group;          // rows of that grid that are walked together
  int batch1;         // matrices of the inner batch dimension
  int count;          // tiles of all matrices together
  int a_steps[2];     // per batch dimension: 1, or 0 where the operand is broadcast
  int b_steps[2];
  bool bulk;  // y is stored by TMA
};

struct TilePlace {
  int row, column;  // of the matrix's elements
  int batch0, batch1;
};

// Tiles go down `group` rows before they go right, so that blocks that run at the same time share rows of A
// and columns of B in L2; matrices of the batch vary slowest.
template <class Tile>
TILEWRIGHT_DEVICE TilePlace place(const Sm90Problem& p, int index, int rank) {
  const int tiles = p.rows * p.columns;
  const int matrix = index / tiles, tile = index % tiles;
  const int band = tile / (p.group * p.columns), inside = tile % (p.group * p.columns);
  const int left = p.rows - band * p.group;
  const int height = left < p.group ? left : p.group;
  int row = band * p.group + inside % height, column = inside / height;
  if constexpr (Tile::kSharesB) {
    row = row * p.cluster + rank;
  } else {
    column = column * p.cluster + rank;
  }
  return {row * Tile::kBlockM, column * Tile::kBlockN, matrix / p.batch1, matrix % p.batch1};
}

// Where a walk around the ring of stages has come to. The parity is that of the current round.
template <int stages>
struct Ring {
  int stage = 0, parity = 0;

  TILEWRIGHT_DEVICE void advance() {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }

  TILEWRIGHT_DEVICE void skip(int steps) {
    stage += steps;
    parity ^= stage / stages & 1;
    stage %= stages;
  }
};

}  // namespace tilewright::cuda
