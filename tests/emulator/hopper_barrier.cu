// mbarriers and the cluster's barrier by themselves: a relay of ordinary data from one warp to two others.
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/cluster.cuh"
#include "harness.h"

using namespace tilewright;
using emulator::Use;
using harness::Global;

namespace {

enum Mutation {
  kNone,
  kNoWait,          // readers do not wait for the data
  kNoEmptyWait,     // the writer does not wait for the readers
  kArrivesEarly,    // the writer arrives before it writes
  kWaitsAgain,      // readers wait for one phase twice
  kBadParity,       // parity 2
  kZeroCount,       // a barrier for nobody
  kUnaligned,       // a barrier at half its alignment
  kUninitialised,   // a barrier that nobody initialised
  kInGlobalMemory,  // a barrier outside of shared memory
  kOverwritten,     // something writes over a barrier
  kOverflow,        // more arrivals than the phase takes
  kGoesBy,          // two phases pass while a thread waits for the first
  kLeftBytes,       // bytes announced that never land
  kArrivesTwice,    // at the cluster's barrier
  kWaitsAlone,      // ... without having arrived
};

constexpr int kRounds = 5, kReaders = 2;

TILEWRIGHT_DEVICE void wait(ptx::Mbarrier* barrier, int parity, bool tries) {
  if (!tries) return ptx::mbarrier_wait(barrier, parity);
  while (!ptx::mbarrier_try_wait(barrier, parity)) {
  }
}

// Warp 0 writes a line each round; warps 1 and 2 add it to their sums.
TILEWRIGHT_KERNEL void relay(const int* x, int* y, ptx::Mbarrier* elsewhere, bool tries, int mutation) {
  TILEWRIGHT_SHARED(shared);
  int* const line = reinterpret_cast<int*>(shared);
  auto* full = reinterpret_cast<ptx::Mbarrier*>(shared + 128 + (mutation == kUnaligned ? 4 : 0));
  auto* const empty = full + 1;
  if (mutation == kInGlobalMemory) full = elsewhere;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = ptx::lane_id();
  if (threadIdx.x == 0) {
    if (mutation != kUninitialised) ptx::mbarrier_init(full, mutation == kZeroCount ? 0 : 32);
    ptx::mbarrier_init(empty, 32 * kReaders);
  }
  if (mutation == kWaitsAlone) ptx::cluster_wait();
  ptx::cluster_arrive();
  if (mutation == kArrivesTwice) ptx::cluster_arrive();
  ptx::cluster_wait();
  if (mutation == kOverwritten && threadIdx.x == 40) *reinterpret_cast<volatile int*>(full) = 1;
  int sum = 0;
  for (int round = 0; round < kRounds; ++round) {
    const int parity = round & 1;
    if (warp == 0) {
      if (mutation != kNoEmptyWait) wait(empty, parity ^ 1, tries);
      if (mutation == kArrivesEarly) ptx::mbarrier_arrive(full);
      line[lane] = x[round * 32 + lane];
      if (mutation == kArrivesEarly) continue;
      if (mutation == kOverflow && lane == 0) ptx::mbarrier_expect_bytes(full, 16);
      if (mutation == kGoesBy && lane == 0) {
        for (int i = 0; i < 64; ++i) ptx::mbarrier_arrive(full);
      }
      ptx::mbarrier_arrive(full);
    } else {
      if (mutation != kNoWait) wait(full, mutation == kBadParity ? 2 : parity, tries);
      if (mutation == kWaitsAgain) wait(full, parity, tries);
      sum += line[31 - lane];
      ptx::mbarrier_arrive(empty);
    }
  }
  if (mutation == kLeftBytes && threadIdx.x == 0) ptx::mbarrier_expect_bytes(full, 64);
  if (warp != 0) y[(warp - 1) * 32 + lane] = sum;
}

template <bool tries>
bool run_relay(int mutation) {
  Global<int> x(kRounds * 32, Use::input, "x"), y(kReaders * 32, Use::output, "y");
  Global<ptx::Mbarrier> elsewhere(1, Use::output, "elsewhere");
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int>(i * i % 97);
  cuda::launch(relay, {dim3(1), 32 * (1 + kReaders), 1, 256}, nullptr, x.data(), y.data(), elsewhere.data(),
               tries, mutation);
  bool right = true;
  for (size_t i = 0; i < y.size(); ++i) {
    int sum = 0;
    for (size_t round = 0; round < kRounds; ++round) sum += x[round * 32 + 31 - i % 32];
    right &= y[i] == sum;
  }
  return right;
}

const harness::Registration kCases[] = {
    harness::Registration({"hopper_barrier",
                           {"no_wait", "no_empty_wait", "arrives_early", "waits_again", "bad_parity",
                            "zero_count", "unaligned", "uninitialised", "in_global_memory", "overwritten",
                            "overflow", "goes_by", "left_bytes", "arrives_twice", "waits_alone"},
                           run_relay<false>}),
    harness::Registration(
        {"hopper_barrier_tries", {"no_wait", "no_empty_wait", "arrives_early"}, run_relay<true>}),
};

}  // namespace
