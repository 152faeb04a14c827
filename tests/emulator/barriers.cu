// Barriers of a block: producer and consumer warps over two buffers, and a reduction over all threads.
#include "harness.h"

using namespace tilewright;
using emulator::Use;
using harness::Global;

namespace {

enum Mutation {
  kNone,
  kNoFullBarrier,   // consumers do not wait for the data
  kNoEmptyBarrier,  // the producer does not wait for the buffer
  kOtherCount,      // one side names another number of threads
  kWrongBarrier,    // consumers wait at a barrier that nobody fills
  kNoArrival,       // the producer does not say that it is done
  kHalfWarp,        // a part of a warp at a barrier
  kUnevenCount,     // a number of threads that is no whole warps
  kBarrierBeyond,   // barrier 16
  kOneBuffer,       // both rounds in one buffer, the barriers as for two
};

constexpr int kRounds = 6;

// Warp 0 fills buffers that warps 1 and 2 read. Barriers 1 and 2: full; 3 and 4: empty. 96 threads each.
TILEWRIGHT_KERNEL void hand_over(const int* x, int* y, int mutation) {
  TILEWRIGHT_SHARED(shared);
  int* const buffers = reinterpret_cast<int*>(shared);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = ptx::lane_id();
  for (int round = 0; round < kRounds; ++round) {
    const int buffer = round % 2;
    int* const data = buffers + (mutation == kOneBuffer ? 0 : buffer) * 32;
    if (warp == 0) {
      if (mutation != kNoEmptyBarrier) ptx::barrier_sync(3 + buffer, 96);
      data[lane] = x[round * 32 + lane];
      if (mutation == kNoArrival && round == 3) continue;
      ptx::barrier_arrive(1 + buffer, mutation == kOtherCount ? 64 : 96);
    } else {
      if (round == 0) {  // both buffers are empty to begin with
        ptx::barrier_arrive(3, 96);
        ptx::barrier_arrive(4, 96);
      }
      if (mutation == kHalfWarp && warp == 2 && lane >= 16) continue;
      const int full = mutation == kWrongBarrier ? 7 : mutation == kBarrierBeyond ? 16 : 1 + buffer;
      if (mutation != kNoFullBarrier) ptx::barrier_sync(full, mutation == kUnevenCount ? 95 : 96);
      y[(round * 2 + warp - 1) * 32 + lane] = data[31 - lane];
      if (round + 2 < kRounds) ptx::barrier_arrive(3 + buffer, 96);
    }
  }
}

bool run_hand_over(int mutation) {
  Global<int> x(kRounds * 32, Use::input, "x");
  Global<int> y(kRounds * 64, Use::output, "y");
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int>(i) * 3;
  cuda::launch(hand_over, {dim3(1), 96, 1, 256}, nullptr, x.data(), y.data(), mutation);
  bool right = true;
  for (size_t i = 0; i < y.size(); ++i) right &= y[i] == x[i / 64 * 32 + 31 - i % 32];
  return right;
}

enum BlockMutation {
  kNoBarrier = 1,    // before another thread's part is read
  kDivergent,        // half of the threads skip a barrier
  kNoSecondBarrier,  // before the memory is used again
  kSkipsLast,        // a whole warp skips the last barrier and ends in another
  kBarrierZero,      // named barrier 0 is sync_threads
};

TILEWRIGHT_KERNEL void block_sums(const float* x, float* y, int mutation) {
  TILEWRIGHT_SHARED(shared);
  float* const values = reinterpret_cast<float*>(shared);
  const int t = static_cast<int>(threadIdx.x);
  for (int part = 0; part < 2; ++part) {
    values[t] = x[part * 128 + t];
    if (mutation != kNoBarrier) ptx::sync_threads();
    for (int distance = 64; distance > 0; distance /= 2) {
      if (t < distance) values[t] += values[t + distance];
      if (mutation == kDivergent && t >= 48 && distance == 64) continue;
      if (mutation == kBarrierZero && distance == 64 && t < 32) {
        ptx::barrier_sync(0, 128);
      } else {
        ptx::sync_threads();
      }
    }
    if (t == 127) y[part] = values[0];
    if (mutation == kSkipsLast && part == 1 && t >= 96) {
      ptx::barrier_sync(1, 128);
      continue;
    }
    if (mutation != kNoSecondBarrier) ptx::sync_threads();
  }
}

bool run_sums(int mutation) {
  Global<float> x(256, Use::input, "x");
  Global<float> y(2, Use::output, "y");
  float sums[2] = {};
  for (uint32_t i = 0; i < 256; ++i) {
    x[i] = harness::whole(i);
    sums[i / 128] += x[i];
  }
  cuda::launch(block_sums, {dim3(1), 128, 1, 512}, nullptr, x.data(), y.data(), mutation);
  return std::memcmp(sums, y.data(), sizeof(sums)) == 0;
}

// A word that all 128 threads read, as whole and as halves, before thread 0 writes it again. With the
// mutation the barrier between leaves warp 2 out: of so many readers it must not be one that was forgotten.
TILEWRIGHT_KERNEL void read_by_all(uint32_t* y, int mutation) {
  TILEWRIGHT_SHARED(shared);
  uint32_t* const word = reinterpret_cast<uint32_t*>(shared);
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) *word = 0x00050003u;
  ptx::sync_threads();
  const uint16_t* const halves = reinterpret_cast<const uint16_t*>(shared);
  const uint32_t read = t % 3 == 0 ? *word : t % 3 == 1 ? halves[0] : halves[1];
  if (mutation == 0) {
    ptx::sync_threads();
  } else if (t / 32 != 2) {
    ptx::barrier_sync(1, 96);
  }
  if (t == 0) *word = 7;
  y[t] = read;
}

bool run_read_by_all(int mutation) {
  Global<uint32_t> y(128, Use::output, "y");
  cuda::launch(read_by_all, {dim3(1), 128, 1, 16}, nullptr, y.data(), mutation);
  bool right = true;
  for (size_t t = 0; t < 128; ++t) right &= y[t] == (t % 3 == 0 ? 0x00050003u : t % 3 == 1 ? 3 : 5);
  return right;
}

// Threads that ended are not waited for: whole warps leave, the others go on meeting.
TILEWRIGHT_KERNEL void leaving(int* y) {
  TILEWRIGHT_SHARED(shared);
  int* const seen = reinterpret_cast<int*>(shared);
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) *seen = 0;
  for (int round = 0; round < 4; ++round) {
    ptx::sync_threads();
    if (t / 32 == 3 - round && t / 32 != 0) return;
    if (t == 0) ++*seen;
  }
  if (t == 0) *y = *seen;
}

bool run_leaving() {
  Global<int> y(1, Use::output, "y");
  cuda::launch(leaving, {dim3(1), 128, 1, 16}, nullptr, y.data());
  return y[0] == 4;
}

const harness::Registration named({"barriers_by_name",
                                   {"no_full_barrier", "no_empty_barrier", "other_count", "wrong_barrier",
                                    "no_arrival", "half_warp", "uneven_count", "barrier_beyond",
                                    "one_buffer"},
                                   run_hand_over});
const harness::Registration block({"sync_threads",
                                   {"no_barrier", "divergent", "no_second_barrier", "skips_last",
                                    "barrier_zero"},
                                   run_sums});
const harness::Registration crowd({"read_by_all", {"one_warp_left_out"}, run_read_by_all});
const harness::Registration ended({"ended_threads", {}, [](int) { return run_leaving(); }});

}  // namespace
