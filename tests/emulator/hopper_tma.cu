// TMA by itself: boxes of every rank and swizzle, im2col columns and multicast, read back by threads; and
// stores of boxes that reach beyond the tensor.
#include <algorithm>

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/tma.cuh"
#include "harness.h"

using namespace tilewright;
using cuda::Swizzle;
using cuda::TensorMap;
using emulator::Use;
using harness::Global;

namespace {

enum Mutation {
  kNone,
  kFewBytes,       // announces a line less than lands
  kManyBytes,      // ... and more
  kNoWait,         // reads before the copy has landed
  kNoExpectation,  // arrives without announcing bytes
  kOtherRank,      // more coordinates than the map has dimensions
  kOtherKind,      // a tiled map given to the im2col instruction
  kNotAMap,        // an address that holds no tensor map
  kNoBarrier,      // counts on a barrier that was never initialised
  kMisaligned,     // a destination between two periods of the swizzle
  kLeftInFlight,   // nobody waits
  kOffTheGrid,     // im2col starts outside of the bounding box
};

constexpr int kTileBytes = 16 * 1024;

struct Copy {
  int rank;  // 0: im2col
  int at[5];
  int offset[2];
  int bytes, line_bytes;
  Swizzle swizzle;
  bool multicast;
};

// Where the byte lies in shared memory that an unswizzled tile has at `byte`: the tile's base is a multiple
// of 1024.
TILEWRIGHT_DEVICE int place(int byte, Swizzle swizzle) {
  const int chunks = cuda::span_of(swizzle) / 16;
  return byte ^ (byte / 128 % chunks * 16);
}

TILEWRIGHT_DEVICE void load(unsigned char* to, const TensorMap* map, ptx::Mbarrier* barrier, const Copy& c,
                            int mutation) {
  const int* at = c.at;
  constexpr uint16_t kBoth = 3;
  if (mutation == kOtherRank) return ptx::tma_load(to, map, barrier, at[0], at[1], at[2], 0, 0);
  if (c.rank == 0 || mutation == kOtherKind) {
    const auto w = static_cast<uint16_t>(c.offset[0]), h = static_cast<uint16_t>(c.offset[1]);
    const int from_w = mutation == kOffTheGrid ? at[1] - 100 : at[1];
    if (c.multicast)
      return ptx::tma_load_im2col_multicast(to, map, barrier, kBoth, at[0], from_w, at[2], at[3], w, h);
    return ptx::tma_load_im2col(to, map, barrier, at[0], from_w, at[2], at[3], w, h);
  }
  if (c.multicast) {
    if (c.rank == 2) return ptx::tma_load_multicast(to, map, barrier, kBoth, at[0], at[1]);
    if (c.rank == 3) return ptx::tma_load_multicast(to, map, barrier, kBoth, at[0], at[1], at[2]);
    if (c.rank == 4) return ptx::tma_load_multicast(to, map, barrier, kBoth, at[0], at[1], at[2], at[3]);
    return ptx::tma_load_multicast(to, map, barrier, kBoth, at[0], at[1], at[2], at[3], at[4]);
  }
  if (c.rank == 2) return ptx::tma_load(to, map, barrier, at[0], at[1]);
  if (c.rank == 3) return ptx::tma_load(to, map, barrier, at[0], at[1], at[2]);
  if (c.rank == 4) return ptx::tma_load(to, map, barrier, at[0], at[1], at[2], at[3]);
  ptx::tma_load(to, map, barrier, at[0], at[1], at[2], at[3], at[4]);
}

// Each block's tile, unswizzled, to y.
TILEWRIGHT_KERNEL void load_tile(const __grid_constant__ TensorMap map, Copy copy, uint16_t* y,
                                 int mutation) {
  TILEWRIGHT_SHARED(shared);
  auto* const barrier = reinterpret_cast<ptx::Mbarrier*>(shared + kTileBytes);
  if (threadIdx.x == 0 && mutation != kNoBarrier) {
    ptx::mbarrier_init(barrier, 1);
    ptx::mbarrier_init_fence();
  }
  ptx::cluster_sync();
  if (threadIdx.x == 0) {
    const int wrong = mutation == kFewBytes ? -copy.line_bytes : mutation == kManyBytes ? copy.line_bytes : 0;
    if (mutation == kNoExpectation) {
      ptx::mbarrier_arrive(barrier);
    } else if (mutation != kNoBarrier) {
      ptx::mbarrier_expect_bytes(barrier, static_cast<uint32_t>(copy.bytes + wrong));
    }
    if (!copy.multicast || ptx::cluster_rank() == 1) {
      const TensorMap* from = mutation == kNotAMap ? reinterpret_cast<const TensorMap*>(shared) : &map;
      load(mutation == kMisaligned ? shared + 64 : shared, from, barrier, copy, mutation);
    }
  }
  if (mutation == kLeftInFlight) return;
  if (mutation != kNoWait) ptx::mbarrier_wait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < copy.bytes / 2; i += static_cast<int>(blockDim.x)) {
    y[static_cast<int>(ptx::cluster_rank()) * (copy.bytes / 2) + i] =
        *reinterpret_cast<const uint16_t*>(shared + place(i * 2, copy.swizzle));
  }
  ptx::sync_warp();
  ptx::cluster_sync();
}

uint16_t element(size_t i) {
  return static_cast<uint16_t>(i * 40503 % 65521 + 1);  // never 0, which stands for what is outside
}

// Runs one copy, and compares with `expected(line, element of the line)`.
template <class Expected>
bool check_tile(const TensorMap& map, const Copy& copy, int mutation, const Expected& expected) {
  const int blocks = copy.multicast ? 2 : 1;
  Global<uint16_t> y(static_cast<size_t>(copy.bytes / 2 * blocks), Use::output, "y");
  cuda::launch(load_tile,
               {dim3(static_cast<unsigned>(blocks)), 64, static_cast<unsigned>(blocks), kTileBytes + 8},
               nullptr, map, copy, y.data(), mutation);
  bool right = true;
  const int line = copy.line_bytes / 2;
  for (int i = 0; i < copy.bytes / 2 * blocks; ++i) {
    const int within = i % (copy.bytes / 2);
    right &= y[static_cast<size_t>(i)] == expected(within / line, within % line);
  }
  return right;
}

bool run_tiled(int mutation) {
  const uint64_t sizes[] = {56, 9, 5, 3, 4};
  const uint64_t strides[] = {128, 128 * 9, 128 * 9 * 6, 128 * 9 * 6 * 3};
  const uint32_t box[] = {0, 5, 3, 2, 2};
  Global<uint16_t> x(64 * 9 * 6 * 3 * 4, Use::input, "x");
  for (size_t i = 0; i < x.size(); ++i) x[i] = element(i);
  bool right = true;
  for (const Swizzle swizzle : {Swizzle::none, Swizzle::b32, Swizzle::b64, Swizzle::b128}) {
    for (int rank = 2; rank <= 5; ++rank) {
      for (const bool multicast : {false, true}) {
        const int wide = swizzle == Swizzle::none ? 40 : cuda::span_of(swizzle) / 2;
        const uint32_t boxes[] = {static_cast<uint32_t>(wide), box[1], box[2], box[3], box[4]};
        const TensorMap map =
            cuda::tiled_map(cuda::DataType::bf16, rank, x.data(), sizes, strides, boxes, swizzle);
        int lines = 1;
        for (int dim = 1; dim < rank; ++dim) lines *= static_cast<int>(box[dim]);
        const int starts[][5] = {{8, 2, 1, 0, 1}, {-3, -2, -1, 2, 3}, {40, 6, 3, 1, -1}};
        for (const auto& start : starts) {
          Copy copy{rank, {}, {}, lines * wide * 2, wide * 2, swizzle, multicast};
          std::copy_n(start, 5, copy.at);
          right &= check_tile(map, copy, mutation, [&](int line, int i) -> uint16_t {
            int64_t offset = start[0] + i;
            bool inside = offset >= 0 && offset < 56;
            for (int dim = 1, rest = line; dim < rank; ++dim) {
              const int at = start[dim] + rest % static_cast<int>(box[dim]);
              rest /= static_cast<int>(box[dim]);
              inside = inside && at >= 0 && at < static_cast<int>(sizes[dim]);
              offset += at * static_cast<int64_t>(strides[dim - 1] / 2);
            }
            return inside ? element(static_cast<size_t>(offset)) : uint16_t{0};
          });
          if (mutation != kNone) return right;
        }
      }
    }
  }
  return right;
}

// A 3 x 2 filter of dilation (2, 1), stride (1, 2), padding (1, 2) over 9 x 7 pixels.
bool run_im2col(int mutation) {
  constexpr int kC = 24, kW = 9, kH = 7, kN = 2, kPixels = 21, kChannels = 16;
  constexpr int kOutW = 7, kOutH = 5;  // (9 + 2 - 4 - 1) / 1 + 1, (7 + 4 - 1 - 1) / 2 + 1
  Global<uint16_t> x(kC * kW * kH * kN, Use::input, "x");
  for (size_t i = 0; i < x.size(); ++i) x[i] = element(i);
  const uint64_t sizes[] = {kC, kW, kH, kN};
  const uint64_t strides[] = {kC * 2, kC * kW * 2, kC * kW * kH * 2};
  const int lower[] = {-1, -2}, upper[] = {1 - 4, 2 - 1};
  const uint32_t traversal[] = {1, 1, 2, 1};
  const TensorMap map = cuda::im2col_map(cuda::DataType::bf16, x.data(), sizes, strides, lower, upper,
                                         kChannels, kPixels, traversal, Swizzle::b32);
  bool right = true;
  for (int first = 0; first < kOutW * kOutH * kN; first += 8) {
    for (int tap = 0; tap < 6; ++tap) {
      const int s = tap % 3, r = tap / 3, channel = tap % 2 * 16;
      const int q = first % kOutW, p = first / kOutW % kOutH, n = first / kOutW / kOutH;
      const Copy copy{0,
                      {channel, q - 1, p * 2 - 2, n, 0},
                      {s * 2, r},
                      kPixels * kChannels * 2,
                      kChannels * 2,
                      Swizzle::b32,
                      tap == 5};
      right &= check_tile(map, copy, mutation, [&](int line, int i) -> uint16_t {
        const int pixel = first + line, c = channel + i;
        const int w = pixel % kOutW - 1 + s * 2, h = pixel / kOutW % kOutH * 2 - 2 + r,
                  image = pixel / kOutW / kOutH;
        if (c >= kC || w < 0 || w >= kW || h < 0 || h >= kH || image >= kN) return 0;
        return element(static_cast<size_t>(((image * kH + h) * kW + w) * kC + c));
      });
      if (mutation != kNone) return right;
    }
  }
  return right;
}

enum StoreMutation {
  kStoreFine,
  kNoProxyFence,
  kNoReadWait,  // the tile is written again while the store reads it
  kNoCommit,
  kNoEndWait,
  kReadBack,     // reads what it stored without waiting for the writes
  kRaggedStore,  // the tensor's rows end inside 16 bytes
};

// Writes two tiles through one buffer, the second beyond the tensor's end in part.
TILEWRIGHT_KERNEL void store_tiles(const __grid_constant__ TensorMap map, uint16_t* y, uint16_t* seen,
                                   int mutation) {
  TILEWRIGHT_SHARED(shared);
  for (int tile = 0; tile < 2; ++tile) {
    if (threadIdx.x == 0 && tile == 1 && mutation != kNoReadWait) ptx::tma_store_wait_read<0>();
    ptx::sync_threads();
    for (int i = static_cast<int>(threadIdx.x); i < 16 * 64; i += static_cast<int>(blockDim.x)) {
      *reinterpret_cast<uint16_t*>(shared + place(i * 2, Swizzle::b128)) =
          static_cast<uint16_t>(tile * 4096 + i + 1);
    }
    if (mutation != kNoProxyFence) ptx::fence_async_proxy();
    ptx::sync_threads();
    if (threadIdx.x == 0) {
      ptx::tma_store(&map, shared, tile * 64, tile * 16 - 4);
      if (mutation != kNoCommit) ptx::tma_store_commit();
    }
  }
  if (threadIdx.x == 0) {
    if (mutation == kNoEndWait) return;
    if (mutation != kReadBack) ptx::tma_store_wait<0>();
    seen[0] = y[15];
    if (mutation == kReadBack) ptx::tma_store_wait<0>();
  }
}

bool run_store(int mutation) {
  constexpr int kRows = 20, kColumns = 104;
  Global<uint16_t> y(kRows * kColumns, Use::in_out, "y"), seen(1, Use::output, "seen");
  for (size_t i = 0; i < y.size(); ++i) y[i] = 0;
  const uint64_t sizes[] = {mutation == kRaggedStore ? 100u : 104u, kRows};
  const uint64_t strides[] = {kColumns * 2};
  const uint32_t box[] = {64, 16};
  const TensorMap map = cuda::tiled_map(cuda::DataType::f16, 2, y.data(), sizes, strides, box, Swizzle::b128);
  cuda::launch(store_tiles, {dim3(1), 64, 1, 2048}, nullptr, map, y.data(), seen.data(), mutation);
  bool right = seen[0] == y[15];
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      const int tile = column / 64, line = row - (tile * 16 - 4);
      const int expected = line >= 0 && line < 16 ? tile * 4096 + line * 64 + column % 64 + 1 : 0;
      right &= y[static_cast<size_t>(row * kColumns + column)] == expected;
    }
  }
  return right;
}

const harness::Registration kCases[] = {
    harness::Registration({"hopper_tma_tiled",
                           {"few_bytes", "many_bytes", "no_wait", "no_expectation", "other_rank",
                            "other_kind", "not_a_map", "no_barrier", "misaligned", "left_in_flight"},
                           run_tiled}),
    harness::Registration({"hopper_tma_im2col",
                           {"few_bytes", "many_bytes", "no_wait", "no_expectation", "other_rank"},
                           run_im2col}),
    harness::Registration({"hopper_tma_im2col_start",
                           {"off_the_grid"},
                           [](int mutation) { return run_im2col(mutation == 0 ? kNone : kOffTheGrid); }}),
    harness::Registration(
        {"hopper_tma_store",
         {"no_proxy_fence", "no_read_wait", "no_commit", "no_end_wait", "read_back", "ragged_store"},
         run_store}),
};

}  // namespace
