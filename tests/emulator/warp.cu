// What lanes of a warp do together, and how it goes wrong.
#include "cuda/ptx/mma.cuh"
#include "harness.h"

using namespace tilewright;
using emulator::Use;
using harness::Global;

namespace {

enum Mutation {
  kNone,
  kDivergentShuffle,   // half of the warp leaves one out
  kOtherDistance,      // half of the warp shuffles by another distance
  kMaskWithoutCaller,  // sync_warp by a lane that its mask leaves out
  kMaskTooWide,        // sync_warp expects lanes that do not come
  kNoSyncWarp,         // between a lane's store and another's load
  kNoSecondSyncWarp,   // between a lane's load and another's next store
  kEndedLane,          // a lane ends before the warp's last shuffle
  kMixedOperations,    // half of the warp at ldmatrix, the other at a shuffle
  kElectedTwice,       // two lanes store where the elected one does
};

// Sums 64 values of a warp twice: by shuffles, and through shared memory in two rounds.
TILEWRIGHT_KERNEL void sum_64(const float* x, float* y, int mutation) {
  TILEWRIGHT_SHARED(shared);
  float* const partial = reinterpret_cast<float*>(shared);
  const int lane = ptx::lane_id();
  float sum = x[lane] + x[lane + 32];
  for (int distance = 16; distance > 0; distance /= 2) {
    if (mutation == kDivergentShuffle && lane >= 16 && distance == 4) continue;
    const int step = mutation == kOtherDistance && lane >= 16 && distance == 4 ? 2 : distance;
    if (mutation == kEndedLane && lane == 31 && distance == 1) return;
    sum += ptx::shuffle_xor(sum, step);
  }
  if (mutation == kMixedOperations) {
    uint32_t words[2] = {};
    if (lane < 16) {
      ptx::ldmatrix_x2(words, shared);
    } else {
      sum += ptx::shuffle(sum, 0);
    }
  }

  for (int round = 0; round < 2; ++round) {
    partial[lane] = x[round * 32 + lane];
    if (mutation == kMaskWithoutCaller) {
      ptx::sync_warp(0x7fffffffu);
    } else if (mutation == kMaskTooWide) {
      if (lane < 16) ptx::sync_warp();
    } else if (mutation != kNoSyncWarp) {
      ptx::sync_warp();
    }
    float total = 0;
    if (lane == 0) {
      for (int i = 0; i < 32; ++i) total += partial[i];
      y[1 + round] = total;
    }
    if (mutation != kNoSecondSyncWarp) ptx::sync_warp();
  }
  const bool elected = ptx::elect_one();
  if (elected || (mutation == kElectedTwice && lane < 2)) y[0] = sum;
}

bool run_sums(int mutation) {
  Global<float> x(64, Use::input, "x");
  Global<float> y(3, Use::output, "y");
  float sums[3] = {};
  for (uint32_t i = 0; i < 64; ++i) {
    x[i] = harness::whole(i);
    sums[0] += x[i];
    sums[1 + i / 32] += x[i];
  }
  cuda::launch(sum_64, {dim3(1), 32, 1, 512}, nullptr, x.data(), y.data(), mutation);
  return std::memcmp(sums, y.data(), sizeof(sums)) == 0;
}

// Each shuffle on each width, lanes beyond the end keeping their own value, and masks of a part of the warp.
TILEWRIGHT_KERNEL void shuffles(int64_t* wide, float* down, int* index, int* parts) {
  TILEWRIGHT_SHARED(shared);
  int* const slots = reinterpret_cast<int*>(shared);
  const int lane = ptx::lane_id();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const size_t at = threadIdx.x;
  wide[at] = ptx::shuffle_xor(int64_t{1} << lane, 5);
  down[at] = ptx::shuffle_down(static_cast<float>(lane), 7);
  index[at] = ptx::shuffle(lane * 10 + warp, (lane + 3) % 32);
  // The halves of a warp on their own.
  slots[at] = lane;
  const uint32_t half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  ptx::sync_warp(half);
  parts[at] = slots[at ^ 15];
}

bool run_shuffles() {
  Global<int64_t> wide(64, Use::output, "wide");
  Global<float> down(64, Use::output, "down");
  Global<int> index(64, Use::output, "index");
  Global<int> parts(64, Use::output, "parts");
  cuda::launch(shuffles, {dim3(1), 64, 1, 256}, nullptr, wide.data(), down.data(), index.data(),
               parts.data());
  bool right = true;
  for (size_t t = 0; t < 64; ++t) {
    const size_t lane = t % 32;
    right &= wide[t] == int64_t{1} << (lane ^ 5);
    right &= down[t] == static_cast<float>(lane + 7 < 32 ? lane + 7 : lane);
    right &= index[t] == static_cast<int>((lane + 3) % 32 * 10 + t / 32);
    right &= parts[t] == static_cast<int>(lane ^ 15);
  }
  return right;
}

const harness::Registration sums({"warp",
                                  {"divergent_shuffle", "other_distance", "mask_without_caller",
                                   "mask_too_wide", "no_sync_warp", "no_second_sync_warp", "ended_lane",
                                   "mixed_operations", "elected_twice"},
                                  run_sums});
const harness::Registration all({"shuffles", {}, [](int) { return run_shuffles(); }});

}  // namespace
