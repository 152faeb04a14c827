// A GEMM for sm_90a with every part that one has: TMA into a ring of stages, mbarriers, warp specialisation,
// wgmma, multicast in clusters, TMA stores; and with switches that break one part at a time.
//
// Block: three warpgroups. The first loads: one thread fills a ring of stages by TMA, half of B by multicast
// where two blocks of a cluster share it. The others each multiply 64 rows of A with all columns of B,
// convert, and store through shared memory while the next tile's loads are on their way.
#include "cuda/launch.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "hopper_gemm.h"

namespace hopper_gemm {

using namespace tilewright;
using cuda::Swizzle;
using cuda::TensorMap;

namespace {

constexpr int kBlockM = 128, kBlockK = 64, kStages = 3;
constexpr int kBlockN = 128;
constexpr int kRowBytes = 128;  // of a swizzled line: 64 elements
constexpr int kPanel = 64;      // elements of a line
constexpr int kABytes = kBlockM * kBlockK * 2, kBBytes = kBlockN * kBlockK * 2;
constexpr int kCBytes = 64 * kBlockN * 2;  // of one consumer
constexpr int kConsumers = 2, kWarps = 4 * kConsumers;
constexpr int kSharedBytes = kStages * (kABytes + kBBytes) + kConsumers * kCBytes + 2 * kStages * 8;
constexpr int kSums = kBlockN / 2;

struct Shared {
  unsigned char* base;
  TILEWRIGHT_DEVICE unsigned char* a(int stage) const {
    return base + stage * (kABytes + kBBytes);
  }
  TILEWRIGHT_DEVICE unsigned char* b(int stage) const {
    return a(stage) + kABytes;
  }
  TILEWRIGHT_DEVICE unsigned char* c(int consumer) const {
    return a(kStages) + consumer * kCBytes;
  }
  TILEWRIGHT_DEVICE ptx::Mbarrier* full(int stage) const {
    return reinterpret_cast<ptx::Mbarrier*>(c(kConsumers)) + stage;
  }
  TILEWRIGHT_DEVICE ptx::Mbarrier* empty(int stage) const {
    return full(kStages + stage);
  }
};

struct Ring {
  int stage = 0, parity = 0;
  TILEWRIGHT_DEVICE void next(bool flips = true) {
    if (++stage < kStages) return;
    stage = 0;
    if (flips) parity ^= 1;
  }
};

struct Walk {  // of this block over the tiles: blocks of a cluster take rows of tiles that follow one another
  int tiles_m, tiles_n, k_tiles, cluster;
};

TILEWRIGHT_DEVICE void load_a(unsigned char* to, const TensorMap* map, ptx::Mbarrier* full, int m, int k,
                              bool mn) {
  if (!mn) {
    ptx::tma_load(to, map, full, k, m);
    return;
  }
  for (int panel = 0; panel < kBlockM / kPanel; ++panel) {
    ptx::tma_load(to + panel * kBlockK * kRowBytes, map, full, m + panel * kPanel, k);
  }
}

TILEWRIGHT_DEVICE void load_b(unsigned char* to, const TensorMap* map, ptx::Mbarrier* full, int n, int k,
                              bool mn, int cluster, int rank, Bug bug) {
  const int part = cluster == 1 ? kBlockN : kBlockN / 2;  // columns that this block fetches, for all
  uint16_t mask = cluster == 1 ? 1 : 3;
  if (bug == Bug::narrow_mask && rank == 0) mask = 1;
  if (bug == Bug::wide_mask) mask = 7;
  for (int column = rank * part; column < (rank + 1) * part; column += kPanel) {
    unsigned char* const at = to + column / kPanel * (kPanel * kRowBytes);
    const int c0 = mn ? n + column : k, c1 = mn ? k : n + column;
    if (cluster == 1) {
      ptx::tma_load(at, map, full, c0, c1);
    } else {
      ptx::tma_load_multicast(at, map, full, mask, c0, c1);
    }
  }
}

// One k-tile into `sums`: four steps of 16.
TILEWRIGHT_DEVICE void multiply(float (&sums)[kSums], const Shared& shared, int stage, int consumer,
                                bool first, bool a_mn, bool b_mn, bool half, Bug bug) {
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int rows = a_mn ? consumer * kBlockK * kRowBytes : consumer * 64 * kRowBytes;
  const int stride = bug == Bug::stride ? 2048 : bug == Bug::short_stride ? 512 : 1024;
  const int leading = kBlockK * kRowBytes;
  uint64_t a = ptx::shared_descriptor(shared.a(stage) + rows, leading, 1024, Swizzle::b128);
  uint64_t b = ptx::shared_descriptor(shared.b(stage), bug == Bug::leading ? leading / 2 : leading, stride,
                                      Swizzle::b128);
  if (bug == Bug::other_descriptor && warp == 1) b = ptx::advance_descriptor(b, 1024);
  for (int step = 0; step < kBlockK / 16; ++step) {
    const bool accumulate = !(first && step == 0);
    if (bug == Bug::warp_stays_away && warp == 2 && consumer == 1) continue;
    if (bug == Bug::divergent_wgmma && ptx::lane_id() < 16) continue;
    if (a_mn && b_mn) {
      ptx::wgmma<kBlockN, __nv_bfloat16, true, true>(sums, a, b, accumulate);
    } else if (b_mn) {
      ptx::wgmma<kBlockN, __nv_bfloat16, false, true>(sums, a, b, accumulate);
    } else if (a_mn) {
      ptx::wgmma<kBlockN, __nv_bfloat16, true, false>(sums, a, b, accumulate);
    } else if (half) {
      ptx::wgmma<kBlockN, __half, false, false>(sums, a, b, accumulate);
    } else {
      ptx::wgmma<kBlockN, __nv_bfloat16, false, false>(sums, a, b, accumulate);
    }
    const int k_bytes = bug == Bug::k_advance ? 64 : 32;
    a = ptx::advance_descriptor(a, a_mn ? 16 * kRowBytes : k_bytes);
    b = ptx::advance_descriptor(b, b_mn ? 16 * kRowBytes : 32);
  }
}

TILEWRIGHT_DEVICE uint32_t pack(float low, float high, bool half) {
  if (half)
    return static_cast<uint32_t>(__half_as_ushort(__float2half(low))) |
           static_cast<uint32_t>(__half_as_ushort(__float2half(high))) << 16;
  return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16(high))) << 16;
}

TILEWRIGHT_DEVICE void store(const float (&sums)[kSums], unsigned char* buffer, const TensorMap* map, int m,
                             int n, int consumer, bool half, Bug bug) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  if (thread == 0 && bug != Bug::no_wait_read) ptx::tma_store_wait_read<0>();
  if (bug != Bug::no_refill_barrier) ptx::barrier_sync(1 + consumer, 128);
  for (int i = 0; i < kSums; i += 2) {
    const int row = thread / 32 * 16 + i / 2 % 2 * 8 + thread % 32 / 4, column = i / 4 * 8 + thread % 4 * 2;
    const int offset = column / kPanel * 64 * kRowBytes + row * kRowBytes + column % kPanel * 2;
    const int swizzled = offset ^ (row % 8 * 16);
    *reinterpret_cast<uint32_t*>(buffer + swizzled) = pack(sums[i], sums[i + 1], half);
  }
  const bool fences = bug != Bug::no_proxy_fence && bug != Bug::fence_after_barrier &&
                      (bug != Bug::one_lane_fences || thread == 0);
  if (fences) ptx::fence_async_proxy();
  if (bug != Bug::no_store_barrier) ptx::barrier_sync(1 + consumer, 128);
  if (bug == Bug::fence_after_barrier) ptx::fence_async_proxy();
  if (thread != 0) return;
  for (int panel = 0; panel < kBlockN / kPanel; ++panel) {
    ptx::tma_store(map, buffer + panel * 64 * kRowBytes, n + panel * kPanel, m);
  }
  if (bug != Bug::no_store_commit) ptx::tma_store_commit();
}

TILEWRIGHT_DEVICE void produce(const Shared& shared, const TensorMap* a, const TensorMap* b, const Walk& walk,
                               bool a_mn, bool b_mn, Bug bug) {
  const int rank = static_cast<int>(ptx::cluster_rank());
  Ring ring;
  for (int tile = static_cast<int>(blockIdx.x); tile < walk.tiles_m * walk.tiles_n;
       tile += static_cast<int>(gridDim.x)) {
    const int m = tile % walk.tiles_m * kBlockM, n = tile / walk.tiles_m * kBlockN;
    for (int k = 0; k < walk.k_tiles; ++k, ring.next()) {
      if (bug != Bug::stage_reuse) {
        ptx::mbarrier_wait(shared.empty(ring.stage),
                           bug == Bug::producer_parity ? ring.parity : ring.parity ^ 1);
      }
      ptx::Mbarrier* const full = shared.full(ring.stage);
      const int wrong = bug == Bug::few_bytes ? -kBBytes / 2 : bug == Bug::many_bytes ? 16 : 0;
      ptx::Mbarrier* const expecting =
          bug == Bug::load_after_arrival ? shared.full((ring.stage + 1) % kStages) : full;
      ptx::mbarrier_expect_bytes(expecting, static_cast<uint32_t>(kABytes + kBBytes + wrong));
      unsigned char* to = shared.a(ring.stage);
      if (bug == Bug::misaligned_tile) to += 64;
      if (bug == Bug::outside_shared) to = shared.base + kSharedBytes / 1024 * 1024;
      load_a(to, a, full, m, k * kBlockK, a_mn);
      load_b(shared.b(ring.stage), b, full, n, k * kBlockK, b_mn, walk.cluster, rank, bug);
    }
  }
}

TILEWRIGHT_DEVICE void release(const Shared& shared, int stage, int cluster, Bug bug) {
  if (ptx::lane_id() != 0) return;
  if (cluster == 1) {
    ptx::mbarrier_arrive(shared.empty(stage));
    return;
  }
  const int own = static_cast<int>(ptx::cluster_rank());
  for (int rank = 0; rank < cluster; ++rank) {
    if (bug == Bug::local_release && rank != own) continue;
    ptx::mbarrier_arrive_cluster(shared.empty(stage), bug == Bug::wrong_rank ? rank + 1 : rank);
  }
}

TILEWRIGHT_DEVICE void consume(const Shared& shared, const TensorMap* c, const Walk& walk, int consumer,
                               bool a_mn, bool b_mn, bool half, Bug bug) {
  Ring ring;
  float sums[kSums];
  bool fenced = false;
  for (int tile = static_cast<int>(blockIdx.x); tile < walk.tiles_m * walk.tiles_n;
       tile += static_cast<int>(gridDim.x)) {
    int previous = -1;  // stage that the group in flight reads
    for (int k = 0; k < walk.k_tiles; ++k, ring.next(bug != Bug::no_flip)) {
      if (bug != Bug::no_full_wait) {
        ptx::mbarrier_wait(shared.full(ring.stage),
                           bug == Bug::consumer_parity ? ring.parity ^ 1 : ring.parity);
      }
      if (bug != Bug::no_fence && !(bug == Bug::no_fence_again && fenced)) ptx::wgmma_fence();
      fenced = true;
      if (bug == Bug::write_after_fence && k == 0) sums[5] += 1.0f;
      multiply(sums, shared, ring.stage, consumer, k == 0, a_mn, b_mn, half, bug);
      if (bug != Bug::no_commit) ptx::wgmma_commit();
      if (bug == Bug::write_in_flight && k == 1) sums[3] = 1.0f;
      if (bug == Bug::early_release || bug == Bug::release_too_soon) {
        if (bug == Bug::release_too_soon) ptx::wgmma_wait<1>();
        release(shared, ring.stage, walk.cluster, bug);
        continue;
      }
      ptx::wgmma_wait<1>();
      if (previous >= 0) release(shared, previous, walk.cluster, bug);
      previous = ring.stage;
    }
    if (bug == Bug::read_in_flight && sums[7] == 3.0f) sums[0] = 1.0f;
    if (bug == Bug::wait_too_few) {
      ptx::wgmma_wait<1>();
    } else if (bug != Bug::no_wait) {
      if (bug != Bug::exit_in_flight) ptx::wgmma_wait<0>();
    }
    if (previous >= 0) release(shared, previous, walk.cluster, bug);
    if (bug == Bug::exit_in_flight) continue;
    const int m = tile % walk.tiles_m * kBlockM + consumer * 64, n = tile / walk.tiles_m * kBlockN;
    store(sums, shared.c(consumer), c, m, n, consumer, half, bug);
  }
  if (threadIdx.x % 128 == 0 && bug != Bug::no_last_wait) ptx::tma_store_wait<0>();
}

TILEWRIGHT_KERNEL void __launch_bounds__(384, 1)
    gemm(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
         const __grid_constant__ TensorMap c, Walk walk, bool a_mn, bool b_mn, bool half, Bug bug) {
  TILEWRIGHT_SHARED(base);
  const Shared shared{base};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      const int wrong = bug == Bug::few_arrivals ? -1 : bug == Bug::many_arrivals ? 1 : 0;
      ptx::mbarrier_init(shared.full(stage), 1);
      ptx::mbarrier_init(shared.empty(stage), kWarps * walk.cluster + wrong);
      if (bug == Bug::init_twice) ptx::mbarrier_init(shared.full(stage), 1);
    }
    if (bug != Bug::no_init_fence) ptx::mbarrier_init_fence();
  }
  if (walk.cluster > 1 && bug != Bug::no_cluster_init_sync) {
    ptx::cluster_sync();
  } else if (bug != Bug::no_init_sync) {
    ptx::sync_threads();
  }
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  if (warpgroup == 0) {
    ptx::registers_shrink<40>();
    if (threadIdx.x == 0) {
      ptx::tma_prefetch(&a);
      ptx::tma_prefetch(&b);
      produce(shared, &a, &b, walk, a_mn, b_mn, bug);
    }
  } else {
    if (bug == Bug::too_many_registers) {
      ptx::registers_grow<248>();
    } else {
      ptx::registers_grow<232>();
    }
    consume(shared, &c, walk, warpgroup - 1, a_mn, b_mn, half, bug);
  }
  if (walk.cluster > 1 && bug != Bug::no_cluster_exit_sync) {
    ptx::sync_warp();
    ptx::cluster_sync();
  }
}

}  // namespace

void launch(const Problem& p, Bug bug, const uint16_t* a, const uint16_t* b, uint16_t* c) {
  const auto type = p.is_half ? cuda::DataType::f16 : cuda::DataType::bf16;
  const auto map = [&](const void* data, int rows, int columns, uint32_t box_rows) {
    const uint64_t sizes[] = {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows)};
    const uint64_t strides[] = {static_cast<uint64_t>(columns) * 2};
    const uint32_t box[] = {kPanel, box_rows};
    return cuda::tiled_map(type, 2, data, sizes, strides, box, Swizzle::b128);
  };
  const TensorMap a_map = p.a_mn_major ? map(a, p.k, p.m, kBlockK) : map(a, p.m, p.k, kBlockM);
  const TensorMap b_map = p.b_mn_major ? map(b, p.k, p.n, kBlockK) : map(b, p.n, p.k, kPanel);
  const TensorMap c_map = map(c, p.m, p.n, 64);
  const auto tiles = [](int size, int block) { return (size + block - 1) / block; };
  Walk walk{tiles(p.m, kBlockM), tiles(p.n, kBlockN), tiles(p.k, kBlockK), p.cluster};
  walk.tiles_m = tiles(walk.tiles_m, p.cluster) * p.cluster;
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.blocks));
  shape.threads = 384;
  shape.cluster = static_cast<unsigned>(p.cluster);
  shape.shared_bytes = kSharedBytes;
  cuda::launch(gemm, shape, nullptr, a_map, b_map, c_map, walk, p.a_mn_major, p.b_mn_major, p.is_half, bug);
}

}  // namespace hopper_gemm
