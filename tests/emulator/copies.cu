// cp.async by itself: widths, zero fill, groups, and what a copy that is still under way forbids.
#include "cuda/ptx/copy.cuh"
#include "harness.h"

using namespace tilewright;
using emulator::Use;
using harness::Global;

namespace {

enum Mutation {
  kNone,
  kNoWait,            // reads its own copy without waiting
  kWaitOneOpen,       // leaves the group open that it reads
  kNoCommit,          // waits for a group that was never closed
  kReadBeforeWait,    // reads while the copy is under way, then waits
  kWriteUnderCopy,    // stores where a copy is to land
  kTwoCopies,         // two copies to one place
  kMisalignedGlobal,  // 16 bytes from an address that 4 divides
  kMisalignedShared,
  kTooManyValid,  // more valid bytes than the copy has
  kBeyondGlobal,  // valid bytes beyond the end of the operand
  kBeyondShared,  // the place is beyond the block's memory
  kNeverWaited,   // ends with a copy under way
};

// Each of 32 threads copies 4, 8 and 16 bytes, of which some are valid, in three groups.
TILEWRIGHT_KERNEL void copy_some(const uint32_t* x, uint32_t* y, int valid, int mutation) {
  TILEWRIGHT_SHARED(shared);
  const int t = static_cast<int>(threadIdx.x);
  uint32_t* const own = reinterpret_cast<uint32_t*>(shared) + t * 8;  // 4 + 2 + 1 words
  const uint32_t* from = x + t * 8;
  const auto clipped = [&](int bytes) { return valid < bytes ? valid : bytes; };
  const uint32_t* const sixteen = mutation == kMisalignedGlobal          ? from + 1
                                  : mutation == kBeyondGlobal && t == 31 ? x + 32 * 8
                                                                         : from;
  uint32_t* const place = mutation == kMisalignedShared          ? own + 1
                          : mutation == kBeyondShared && t == 31 ? own + 8
                                                                 : own;
  ptx::cp_async<16>(place, sixteen, mutation == kTooManyValid ? 17 : clipped(16));
  if (mutation != kNoCommit) ptx::cp_async_commit();
  ptx::cp_async<8>(own + 4, from + 4, clipped(8));
  if (mutation == kTwoCopies) ptx::cp_async<8>(own + 4, from + 6, clipped(8));
  if (mutation == kWriteUnderCopy) own[5] = 3;
  if (mutation != kNoCommit) ptx::cp_async_commit();
  ptx::cp_async<4>(own + 6, from + 6, clipped(4));
  if (mutation != kNoCommit) ptx::cp_async_commit();

  if (mutation == kReadBeforeWait) y[t * 8 + 7] = own[0];
  if (mutation != kNoWait) ptx::cp_async_wait<2>();
  for (int i = 0; i < 4; ++i) y[t * 8 + i] = own[i];
  if (mutation != kNoWait && mutation != kNeverWaited) {
    if (mutation == kWaitOneOpen) {
      ptx::cp_async_wait<1>();
    } else {
      ptx::cp_async_wait<0>();
    }
  }
  if (mutation != kNeverWaited) {
    for (int i = 4; i < 7; ++i) y[t * 8 + i] = own[i];
  }
  if (mutation != kReadBeforeWait) y[t * 8 + 7] = 7;
}

bool run_copies(int mutation) {
  bool right = true;
  for (int valid = 0; valid <= 16; valid += 4) {
    Global<uint32_t> x(256, Use::input, "x");
    Global<uint32_t> y(256, Use::output, "y");
    for (uint32_t i = 0; i < 256; ++i) x[i] = i * 0x01010101u + 1;
    cuda::launch(copy_some, {dim3(1), 32, 1, 1024}, nullptr, x.data(), y.data(), valid, mutation);
    for (size_t t = 0; t < 32; ++t) {
      const auto words = static_cast<size_t>(valid) / 4;
      for (size_t i = 0; i < 4; ++i) right &= y[t * 8 + i] == (i < words ? x[t * 8 + i] : 0);
      for (size_t i = 4; i < 6; ++i) right &= y[t * 8 + i] == (i - 4 < words ? x[t * 8 + i] : 0);
      right &= y[t * 8 + 6] == (words > 0 ? x[t * 8 + 6] : 0);
    }
  }
  return right;
}

// No valid byte: the address is not looked at.
TILEWRIGHT_KERNEL void copy_nothing(uint4* y) {
  TILEWRIGHT_SHARED(shared);
  uint4* const own = reinterpret_cast<uint4*>(shared) + threadIdx.x;
  ptx::cp_async<16>(own, nullptr, 0);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  y[threadIdx.x] = *own;
}

bool run_nothing() {
  Global<uint4> y(32, Use::output, "y");
  std::memset(y.data(), 1, 512);
  cuda::launch(copy_nothing, {dim3(1), 32, 1, 512}, nullptr, y.data());
  bool right = true;
  for (size_t t = 0; t < 32; ++t) right &= (y[t].x | y[t].y | y[t].z | y[t].w) == 0;
  return right;
}

const harness::Registration copies({"copies",
                                    {"no_wait", "wait_one_open", "no_commit", "read_before_wait",
                                     "write_under_copy", "two_copies", "misaligned_global",
                                     "misaligned_shared", "too_many_valid", "beyond_global", "beyond_shared",
                                     "never_waited"},
                                    run_copies});
const harness::Registration nothing({"copy_of_nothing", {}, [](int) { return run_nothing(); }});

}  // namespace
