// y = act(A·B + bias + residual) on Hopper: the TMA fetches, wgmma multiplies, warpgroups have roles.
//
// A block stays on its multiprocessor and walks over tiles (persistent). Its three warpgroups meet in a ring
// of stages, each one step of K: block_m x block_k of A and block_k x block_n of B.
//
//   producer     wait empty[s] -> announce bytes on full[s] -> start TMA loads into stage s     (one thread)
//   consumers    wait full[s] -> wgmma from stage s -> once they are done, arrive on empty[s]   (per warp)
//
//   cooperative, two stages drawn     time ->
//     producer    load 0 | load 1 | . load 2 | . load 3 | load 0' | load 1' | …      (' = next tile)
//     consumer 0         | mma 0  | mma 1    | mma 2    | mma 3   | store y | mma 0'      rows 0 ..
//     consumer 1         | mma 0  | mma 1    | mma 2    | mma 3   | store y | mma 0'      rows block_m/2 ..
//   ping-pong                                           one starts when the other has begun its last step
//     consumer 0         | mma 0  | mma 1    | mma 2    | mma 3   | store y            | mma 0'' | …
//     consumer 1                                                  | mma 0' | mma 1' | … | store y'
//
// With clusters of two, the blocks have neighbouring tiles that share an operand. Each block fetches half of
// it and multicasts that to both, so a stage may be refilled only when the consumers of *both* blocks have
// released it: they arrive on both blocks' empty barriers, which count for both.
//
// Barriers: full[s] counts one arrival (the producer's) and the stage's bytes; empty[s] one arrival of each
// warp that reads the stage, in each block of the cluster. Waits are by parity of the round about the ring;
// the producer begins with the opposite one, for stages are empty at first.
//
// Sizes need not divide: the TMA reads zeros outside of the matrices, which add nothing, and does not write
// there.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "matmul/cuda/sm90_epilogue.cuh"

namespace tilewright::cuda {

// Asked for in each role: kept over both, it would be spilled.
TILEWRIGHT_DEVICE int rank_of(const Sm90Problem& p) {
  return p.cluster == 1 ? 0 : static_cast<int>(ptx::cluster_rank());
}

struct Sm90Barriers {
  ptx::Mbarrier *full, *empty;
};

// One operand of one stage: `rows` rows of A or columns of B from `row` on. With `parts` > 1 this block
// fetches `part` of them, for the whole cluster.
template <bool mn_major, int rows, int depth>
TILEWRIGHT_DEVICE void load_operand(unsigned char* shared, const TensorMap* map, ptx::Mbarrier* full, int row,
                                    int k, int batch1, int batch0, int part, int parts) {
  auto box = [&](unsigned char* to, int c0, int c1) {
    if (parts > 1) {
      const uint16_t everyone = static_cast<uint16_t>((1 << parts) - 1);
      ptx::tma_load_multicast(to, map, full, everyone, c0, c1, batch1, batch0);
    } else {
      ptx::tma_load(to, map, full, c0, c1, batch1, batch0);
    }
  };
  if constexpr (mn_major) {
#pragma unroll 1
    for (int chunk = part; chunk < rows / 64; chunk += parts) {
      box(shared + chunk * depth * 128, row + chunk * 64, k);
    }
  } else {
    const int first = rows / parts * part;
    box(shared + first * 128, k, row + first);
  }
}

template <class Tile>
TILEWRIGHT_DEVICE void produce(const Sm90Problem& p, const TensorMap* a, const TensorMap* b,
                               unsigned char* stages, const Sm90Barriers& barriers) {
  const int rank = rank_of(p);
  const int a_parts = Tile::kSharesB ? 1 : p.cluster, b_parts = Tile::kSharesB ? p.cluster : 1;
  Ring<Tile::kStages> ring;
#pragma unroll 1
  for (int index = blockIdx.x / p.cluster; index < p.count; index += gridDim.x / p.cluster) {
    const TilePlace at = place<Tile>(p, index, rank);
#pragma unroll 1
    for (int k = 0; k < p.k; k += Tile::kBlockK) {
      ptx::Mbarrier* const full = barriers.full + ring.stage;
      unsigned char* const stage = stages + ring.stage * Tile::kStageBytes;
      ptx::mbarrier_wait(barriers.empty + ring.stage, ring.parity ^ 1);
      ptx::mbarrier_expect_bytes(full, Tile::kStageBytes);
      load_operand<Tile::kAMnMajor, Tile::kBlockM, Tile::kBlockK>(
          stage, a, full, at.row, k, at.batch1 * p.a_steps[1], at.batch0 * p.a_steps[0], rank % a_parts,
          a_parts);
      load_operand<Tile::kBMnMajor, Tile::kBlockN, Tile::kBlockK>(
          stage + Tile::kABytes, b, full, at.column, k, at.batch1 * p.b_steps[1], at.batch0 * p.b_steps[0],
          rank % b_parts, b_parts);
      ring.advance();
    }
  }
}

// The products of one stage, for one warpgroup: four wgmma steps for each 64 of its rows.
template <class Tile>
TILEWRIGHT_DEVICE void multiply_stage(Sm90Sums<Tile>& sums, uint64_t a, uint64_t b, bool accumulate) {
  // Bytes to the next step of K: within a 128-byte row, or kStepK rows on.
  constexpr int kAStep = Tile::kAMnMajor ? Tile::kStepK * Tile::kRowBytes : 32;
  constexpr int kBStep = Tile::kBMnMajor ? Tile::kStepK * Tile::kRowBytes : 32;
  constexpr int kPartBytes = 64 * Tile::kRowBytes;  // 64 rows of K-major, or block_k = 64 of MN-major
#pragma unroll
  for (int step = 0; step < Tile::kBlockK / Tile::kStepK; ++step) {
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part) {
      ptx::wgmma<Tile::kBlockN, typename Tile::Element, Tile::kAMnMajor, Tile::kBMnMajor>(
          sums[part], ptx::advance_descriptor(a, step * kAStep + part * kPartBytes),
          ptx::advance_descriptor(b, step * kBStep), accumulate || step > 0);
    }
  }
}

template <class Tile>
TILEWRIGHT_DEVICE void fence_sums(Sm90Sums<Tile>& sums) {
#pragma unroll
  for (int part = 0; part < Tile::kParts; ++part) {
#pragma unroll
    for (int i = 0; i < Tile::kBlockN / 2; ++i) ptx::fence_operand(sums[part][i]);
  }
}

// This warp will not read the stage again, in any block's view.
TILEWRIGHT_DEVICE void release(ptx::Mbarrier* empty, int cluster) {
  const int lane = ptx::lane_id();
  if (cluster == 1) {
    if (lane == 0) ptx::mbarrier_arrive(empty);
  } else if (lane < cluster) {
    ptx::mbarrier_arrive_cluster(empty, lane);
  }
}

// Ping-pong: a consumer begins a main loop when the other has seen all stages of its own. Stages come in that
// order anyway, but a barrier's parity tells the current round from the one before and no more: who waits for
// a stage that is two rounds off would find it full.
constexpr int kTurnBarrier = 3;  // and 4; 1 and 2 are Sm90Store's

template <class Tile>
TILEWRIGHT_DEVICE void consume(const Sm90Problem& p, const Epilogue& e, const TensorMap* y,
                               unsigned char* shared, const Sm90Barriers& barriers, int group) {
  const int rank = rank_of(p);
  constexpr bool kCooperative = Tile::kSchedule == Schedule::cooperative;
  Sm90Store store{shared + Tile::kSlabOffset + group * Tile::kSlabs * Tile::kSlabBytes,
                  reinterpret_cast<float*>(shared + Tile::kBiasOffset) + group * Tile::kBlockN,
                  static_cast<int>(threadIdx.x) % 128, group};
  // Eight rows of an operand are 1024 bytes; 64 of an MN-major one are block_k rows.
  constexpr int kSpanBytes = Tile::kBlockK * Tile::kRowBytes;
  const uint64_t a = ptx::shared_descriptor(
      shared + (kCooperative ? group * Tile::kGroupM * Tile::kRowBytes : 0), kSpanBytes, 1024, Swizzle::b128);
  const uint64_t b = ptx::shared_descriptor(shared + Tile::kABytes, kSpanBytes, 1024, Swizzle::b128);
  const int steps = (p.k + Tile::kBlockK - 1) / Tile::kBlockK;
  Ring<Tile::kStages> ring;
  Sm90Sums<Tile> sums;
  const int stride = static_cast<int>(gridDim.x) / p.cluster;
  int turn = 0;
#pragma unroll 1
  for (int index = blockIdx.x / p.cluster; index < p.count; index += stride, ++turn) {
    if (!kCooperative && turn % Tile::kConsumers != group) {
      ring.skip(steps);
      continue;
    }
    TilePlace at = place<Tile>(p, index, rank);
    Sm90Bias<Tile> bias;
    if (p.bulk) bias.fetch(store, p, e, at);
    if (!kCooperative && turn > 0) ptx::barrier_sync(kTurnBarrier + group, 128 * Tile::kConsumers);
    ptx::Mbarrier* last = nullptr;  // of the stage whose products are still in flight
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      ptx::mbarrier_wait(barriers.full + ring.stage, ring.parity);
      fence_sums<Tile>(sums);
      ptx::wgmma_fence();
      multiply_stage<Tile>(sums, ptx::advance_descriptor(a, ring.stage * Tile::kStageBytes),
                           ptx::advance_descriptor(b, ring.stage * Tile::kStageBytes), step > 0);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      fence_sums<Tile>(sums);
      if (step > 0) release(last, p.cluster);
      last = barriers.empty + ring.stage;
      ring.advance();
    }
    if (!kCooperative && index + stride < p.count) {
      ptx::barrier_arrive(kTurnBarrier + 1 - group, 128 * Tile::kConsumers);
    }
    ptx::wgmma_wait<0>();
    fence_sums<Tile>(sums);
    release(last, p.cluster);
    if constexpr (kCooperative) at.row += group * Tile::kGroupM;
    store_tile<Tile>(sums, store, p, e, bias, y, at);
  }
  if (store.thread == 0) ptx::tma_store_wait<0>();  // the slabs are read until then
}

// What all threads of a block do. `produce(stages, barriers)` is the producer's walk over tiles and stages; a
// kernel whose operands are no plain matrices brings its own.
template <class Tile, class Produce>
TILEWRIGHT_DEVICE void run_roles(const Sm90Problem& p, const Epilogue& e, const TensorMap* y,
                                 const Produce& produce) {
  TILEWRIGHT_SHARED(shared);
  Sm90Barriers barriers;
  barriers.full = reinterpret_cast<ptx::Mbarrier*>(shared + Tile::kBarrierOffset);
  barriers.empty = barriers.full + Tile::kStages;
  const int group = static_cast<int>(threadIdx.x) / 128;
  constexpr int kReaders = 4 * (Tile::kSchedule == Schedule::cooperative ? Tile::kConsumers : 1);  // warps
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kStages; ++i) {
      ptx::mbarrier_init(barriers.full + i, 1);
      ptx::mbarrier_init(barriers.empty + i, kReaders * p.cluster);
    }
    ptx::mbarrier_init_fence();
  }
  // No block may write to another, or arrive there, before the other's barriers stand.
  if (p.cluster > 1) {
    ptx::cluster_sync();
  } else {
    ptx::sync_threads();
  }
  if (group == 0) {
    ptx::registers_shrink<Tile::kProducerRegisters>();
    if (threadIdx.x < 32 && ptx::elect_one()) {
      if (p.bulk) ptx::tma_prefetch(y);
      produce(shared, barriers);
    }
    ptx::sync_warp();
  } else {
    ptx::registers_grow<Tile::kConsumerRegisters>();
    consume<Tile>(p, e, y, shared, barriers, group - 1);
    ptx::sync_warp();
  }
  // Nor may a block leave while the other still arrives at its barriers or writes to its stages.
  if (p.cluster > 1) ptx::cluster_sync();
}

template <class Tile>
TILEWRIGHT_KERNEL void __launch_bounds__(Tile::kThreads, 1)
    sm90_matmul(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                const __grid_constant__ TensorMap y, const Sm90Problem p, const Epilogue e) {
  run_roles<Tile>(p, e, &y, [&](unsigned char* stages, const Sm90Barriers& barriers) {
    ptx::tma_prefetch(&a);
    ptx::tma_prefetch(&b);
    produce<Tile>(p, &a, &b, stages, barriers);
  });
}

}  // namespace tilewright::cuda
