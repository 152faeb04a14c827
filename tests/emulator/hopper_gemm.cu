// A GEMM for sm_90a with every part that one has: TMA into a ring of stages, mbarriers, warp specialisation,
// wgmma, multicast in clusters, TMA stores; and with switches that break one part at a time.
//
// Block: three warpgroups. The first loads: one thread fills a ring of stages by TMA, half of B by multicast
// where two blocks of a cluster share it. The others each multiply 64 rows of A with all columns of B,
// convert, and store through shared memory while the next tile's loads are on their way.
#include <algorithm>

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "harness.h"

using namespace tilewright;
using cuda::Swizzle;
using cuda::TensorMap;
using emulator::Use;
using harness::Global;

namespace {

// What is wrong with the kernel.
enum class Bug : int {
  none,
  // the ring of shared-memory stages
  early_release,       // consumers give a stage back before their wgmma has read it
  release_too_soon,    // ... while the last but one is still being read
  few_arrivals,        // the empty barriers count one arrival too few
  many_arrivals,       // ... one too many
  few_bytes,           // less announced than lands
  many_bytes,          // more announced than lands
  consumer_parity,     // consumers wait for the phase before
  producer_parity,     // so does the producer
  no_flip,             // consumers do not flip the parity when the ring wraps
  stage_reuse,         // the producer does not wait for its stage
  no_full_wait,        // consumers do not wait for theirs
  load_after_arrival,  // the expectation names the wrong barrier's stage
  // barriers' initialisation
  no_init_fence,
  no_init_sync,
  init_twice,
  // wgmma
  no_fence,        // never fenced
  no_fence_again,  // fenced before the first tile only
  no_wait,         // sums are read without waiting
  wait_too_few,    // one group stays in flight at the end
  no_commit,
  write_after_fence,  // a sum is changed between fence and wgmma
  write_in_flight,    // a sum is changed while in flight
  read_in_flight,     // a sum is read while in flight
  warp_stays_away,    // one warp of four does not multiply
  other_descriptor,   // one warp multiplies other rows of B
  stride,             // a descriptor's stride is twice too long
  short_stride,       // ... half a group of rows
  k_advance,          // the k-step inside the span is twice too long
  leading,            // MN-major: the panels' distance is wrong
  divergent_wgmma,    // half a warp calls
  exit_in_flight,
  too_many_registers,
  // TMA store
  no_proxy_fence,  // sums are stored to shared memory without a fence
  one_lane_fences,
  fence_after_barrier,
  no_store_barrier,   // the storing thread does not wait for the others
  no_wait_read,       // the buffer is refilled while the store reads it
  no_refill_barrier,  // the others do not wait for the thread that waited
  no_store_commit,
  no_last_wait,
  // addresses
  misaligned_tile,
  outside_shared,
  // cluster
  narrow_mask,           // multicast reaches the own block only
  wide_mask,             // ... a block that does not exist
  local_release,         // the other block is not told that its stage is free
  no_cluster_init_sync,  // only the block waits for the barriers' initialisation
  no_cluster_exit_sync,
  wrong_rank,  // releases a block that does not exist
  count,
};

struct Problem {
  int m, n, k;
  int cluster = 1;
  bool a_mn_major = false, b_mn_major = false;  // A given as K x M, B as K x N
  bool is_half = false;
  int blocks = 2;  // resident in all: fewer than tiles, so that each works on several
};

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

uint16_t bits_of(float value, bool half) {
  return half ? __half_as_ushort(__float2half(value)) : __bfloat16_as_ushort(__float2bfloat16(value));
}

// Not instrumented and optimised, for it took longer than the kernel. B as k x n here.
[[gnu::no_sanitize("thread"), gnu::optimize("O3")]] void add_products(float* sums, const float* row,
                                                                      const float* b, int n, int k) {
  for (int q = 0; q < k; ++q) {
    for (int j = 0; j < n; ++j) sums[j] += row[q] * b[q * n + j];
  }
}

bool is_product(const Problem& p, const float* a, const float* b, const uint16_t* c) {
  bool right = true;
  std::vector<float> sums(static_cast<size_t>(p.n));
  for (int i = 0; i < p.m; ++i) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    add_products(sums.data(), a + i * p.k, b, p.n, p.k);
    for (int j = 0; j < p.n; ++j) right &= c[i * p.n + j] == bits_of(sums[static_cast<size_t>(j)], p.is_half);
  }
  return right;
}

// c (m x n) = a b; a is m x k, or k x m, b n x k, or k x n.
bool run(const Problem& p, Bug bug) {
  const auto m = static_cast<size_t>(p.m), n = static_cast<size_t>(p.n), k = static_cast<size_t>(p.k);
  Global<uint16_t> a(m * k, Use::input, "a"), b(n * k, Use::input, "b"), c(m * n, Use::output, "c");
  std::vector<float> a_values(m * k), b_values(n * k);
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < k; ++j) {
      a_values[i * k + j] = harness::whole(static_cast<uint32_t>(i * k + j));
      a[p.a_mn_major ? j * m + i : i * k + j] = bits_of(a_values[i * k + j], p.is_half);
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < k; ++j) {
      b_values[j * n + i] = harness::whole(static_cast<uint32_t>(i * k + j + 77777));
      b[p.b_mn_major ? j * n + i : i * k + j] = bits_of(b_values[j * n + i], p.is_half);
    }
  }
  launch(p, bug, a.data(), b.data(), c.data());
  return is_product(p, a_values.data(), b_values.data(), c.data());
}

struct Named {
  const char* name;
  Bug bug;
};

const std::vector<Named> kBugs = {{"early_release", Bug::early_release},
                                  {"release_too_soon", Bug::release_too_soon},
                                  {"few_arrivals", Bug::few_arrivals},
                                  {"many_arrivals", Bug::many_arrivals},
                                  {"few_bytes", Bug::few_bytes},
                                  {"many_bytes", Bug::many_bytes},
                                  {"consumer_parity", Bug::consumer_parity},
                                  {"producer_parity", Bug::producer_parity},
                                  {"no_flip", Bug::no_flip},
                                  {"stage_reuse", Bug::stage_reuse},
                                  {"no_full_wait", Bug::no_full_wait},
                                  {"load_after_arrival", Bug::load_after_arrival},
                                  {"no_init_fence", Bug::no_init_fence},
                                  {"no_init_sync", Bug::no_init_sync},
                                  {"init_twice", Bug::init_twice},
                                  {"no_fence", Bug::no_fence},
                                  {"no_fence_again", Bug::no_fence_again},
                                  {"no_wait", Bug::no_wait},
                                  {"wait_too_few", Bug::wait_too_few},
                                  {"no_commit", Bug::no_commit},
                                  {"write_after_fence", Bug::write_after_fence},
                                  {"write_in_flight", Bug::write_in_flight},
                                  {"read_in_flight", Bug::read_in_flight},
                                  {"warp_stays_away", Bug::warp_stays_away},
                                  {"other_descriptor", Bug::other_descriptor},
                                  {"stride", Bug::stride},
                                  {"short_stride", Bug::short_stride},
                                  {"k_advance", Bug::k_advance},
                                  {"divergent_wgmma", Bug::divergent_wgmma},
                                  {"exit_in_flight", Bug::exit_in_flight},
                                  {"too_many_registers", Bug::too_many_registers},
                                  {"no_proxy_fence", Bug::no_proxy_fence},
                                  {"one_lane_fences", Bug::one_lane_fences},
                                  {"fence_after_barrier", Bug::fence_after_barrier},
                                  {"no_store_barrier", Bug::no_store_barrier},
                                  {"no_wait_read", Bug::no_wait_read},
                                  {"no_refill_barrier", Bug::no_refill_barrier},
                                  {"no_store_commit", Bug::no_store_commit},
                                  {"no_last_wait", Bug::no_last_wait},
                                  {"misaligned_tile", Bug::misaligned_tile},
                                  {"outside_shared", Bug::outside_shared}};
const std::vector<Named> kMnMajorBugs = {
    {"leading", Bug::leading}, {"stride", Bug::stride}, {"short_stride", Bug::short_stride}};
const std::vector<Named> kClusterBugs = {{"narrow_mask", Bug::narrow_mask},
                                         {"wide_mask", Bug::wide_mask},
                                         {"local_release", Bug::local_release},
                                         {"no_cluster_init_sync", Bug::no_cluster_init_sync},
                                         {"no_cluster_exit_sync", Bug::no_cluster_exit_sync},
                                         {"wrong_rank", Bug::wrong_rank}};

const Problem kPlain{.m = 256, .n = 128, .k = 256, .blocks = 1};
const Problem kRagged{.m = 200, .n = 136, .k = 168, .blocks = 3};
const Problem kHalf{.m = 128, .n = 128, .k = 128, .is_half = true};
const Problem kMnMajor{.m = 256, .n = 128, .k = 192, .a_mn_major = true, .b_mn_major = true};
const Problem kMixed{.m = 136, .n = 200, .k = 128, .b_mn_major = true};
const Problem kOtherMixed{.m = 256, .n = 128, .k = 128, .a_mn_major = true};
const Problem kCluster{.m = 256, .n = 256, .k = 256, .cluster = 2};
const Problem kTwoClusters{.m = 512, .n = 128, .k = 128, .cluster = 2, .blocks = 4};
const Problem kClusterRagged{.m = 200, .n = 200, .k = 136, .cluster = 2, .b_mn_major = true};

template <const Problem& problem, const std::vector<Named>& bugs>
bool run_named(int mutation) {
  return run(problem, mutation == 0 ? Bug::none : bugs[static_cast<size_t>(mutation) - 1].bug);
}

template <const Problem& problem>
bool run_plain(int) {
  return run(problem, Bug::none);
}

std::vector<const char*> names(const std::vector<Named>& bugs) {
  std::vector<const char*> all;
  for (const Named& bug : bugs) all.push_back(bug.name);
  return all;
}

const harness::Registration kCases[] = {
    harness::Registration({"hopper_gemm", names(kBugs), run_named<kPlain, kBugs>}),
    harness::Registration({"hopper_gemm_mn_major", names(kMnMajorBugs), run_named<kMnMajor, kMnMajorBugs>}),
    harness::Registration({"hopper_gemm_cluster", names(kClusterBugs), run_named<kCluster, kClusterBugs>}),
    harness::Registration({"hopper_gemm_ragged", {}, run_plain<kRagged>}),
    harness::Registration({"hopper_gemm_half", {}, run_plain<kHalf>}),
    harness::Registration({"hopper_gemm_b_mn_major", {}, run_plain<kMixed>}),
    harness::Registration({"hopper_gemm_a_mn_major", {}, run_plain<kOtherMixed>}),
    harness::Registration({"hopper_gemm_two_clusters", {}, run_plain<kTwoClusters>}),
    harness::Registration({"hopper_gemm_cluster_ragged", {}, run_plain<kClusterRagged>}),
};

}  // namespace
