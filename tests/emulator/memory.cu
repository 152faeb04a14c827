// Plain loads and stores: bounds, what was never written, alignment, arrays in registers, the memory of other
// blocks.
#include "harness.h"

using namespace tilewright;
using emulator::Use;
using harness::Global;

namespace {

enum Mutation {
  kNone,
  kReadBeyond,   // one element after an input
  kReadBefore,   // one element before it
  kWriteBeyond,  // one element after the output
  kWriteInput,   // stores to an input
  kNullPointer,
  kStrayPointer,  // memory that no buffer names
  kSharedBeyond,  // the element after the block's shared memory
  kSharedBefore,
  kSharedUnwritten,   // reads shared memory that nobody wrote
  kOutputUnwritten,   // reads the output before it is written
  kMisalignedVector,  // float4 at an address that 8 divides
  kMisalignedScalar,  // float at an address that 2 divides
  kRegisterIndex,     // beyond a local array
  kIndexOverflow,     // 32-bit index arithmetic
  kCopyBeyond,        // memcpy past the end
  kHalfWritten,       // one of two bf16 in a word was written, both are read
  kNeighbourBf16,     // two threads write the same bf16
};

struct Arguments {
  const float* x;
  float* y;
  __nv_bfloat16* narrow;
  const float* nowhere;
  int count;
  int mutation;
};

// y = 2x by vectors of four through shared memory, then narrow = bf16(y), an element per thread.
TILEWRIGHT_KERNEL void twice(const Arguments p) {
  TILEWRIGHT_SHARED(shared);
  float4* const tile = reinterpret_cast<float4*>(shared);
  const int t = static_cast<int>(threadIdx.x);
  const int first = static_cast<int>(blockIdx.x * blockDim.x) * 4;
  const bool last = t == 63 && blockIdx.x == 1;
  const bool one = t == 0 && blockIdx.x == 0;
  const float* x = p.x + first;
  if (p.mutation == kNullPointer && last) x = nullptr;
  if (p.mutation == kStrayPointer && last) x = p.nowhere;
  if (p.mutation == kMisalignedVector) x += last ? -2 : 0;
  float4 v = reinterpret_cast<const float4*>(x)[t];
  if (p.mutation == kReadBeyond && last) v.x += p.x[p.count];
  if (p.mutation == kReadBefore && one) v.x += p.x[-1];
  if (p.mutation == kWriteInput && one) const_cast<float*>(p.x)[5] = 0;
  if (p.mutation == kMisalignedScalar && one) {
    v.x += *reinterpret_cast<const float*>(reinterpret_cast<const char*>(p.x) + 2);
  }
  float parts[4] = {v.x, v.y, v.z, v.w};
  int most = p.mutation == kRegisterIndex ? 5 : 4;
  for (int i = 0; i < most; ++i) parts[i] *= 2;
  if (p.mutation == kIndexOverflow && one) {
    const int huge = p.count * (1 << 23);  // 512 · 2^23 = 2^32
    v.x += p.x[huge];
  }
  if (p.mutation != kSharedUnwritten || t != 17) tile[t] = {parts[0], parts[1], parts[2], parts[3]};
  if (p.mutation == kSharedBeyond && t == 63) tile[64].x = 1;
  if (p.mutation == kSharedBefore && t == 0) tile[-1].w = 1;
  ptx::sync_threads();
  float4* const y = reinterpret_cast<float4*>(p.y + first);
  if (p.mutation == kOutputUnwritten) tile[63 - t].x += y[63 - t].x;
  y[63 - t] = tile[63 - t];
  if (p.mutation == kWriteBeyond && last) p.y[p.count] = 0;
  ptx::sync_threads();
  if (p.mutation == kCopyBeyond && last) std::memcpy(p.y + first + 252, parts, static_cast<size_t>(t) / 3);
  for (int i = 0; i < 4; ++i) {
    const int at = first + (p.mutation == kNeighbourBf16 && i == 3 && last ? i * 64 + t - 1 : i * 64 + t);
    if (p.mutation == kHalfWritten && one && i == 0) continue;
    p.narrow[at] = __float2bfloat16(p.y[at]);
  }
  if (p.mutation == kHalfWritten) {
    ptx::sync_threads();
    if (one) p.y[0] = static_cast<float>(reinterpret_cast<const uint32_t*>(p.narrow)[0]);
  }
}

bool run(int mutation) {
  constexpr int kCount = 512;
  Global<float> x(kCount, Use::input, "x");
  Global<float> y(kCount, Use::output, "y");
  Global<__nv_bfloat16> narrow(kCount, Use::output, "narrow");
  for (uint32_t i = 0; i < kCount; ++i) x[i] = harness::whole(i);
  const std::vector<float> nowhere(4096);
  cuda::launch(twice, {dim3(2), 64, 1, 1024}, nullptr,
               Arguments{x.data(), y.data(), narrow.data(), nowhere.data() + 512, kCount, mutation});
  bool right = true;
  for (size_t i = 0; i < kCount; ++i) {
    right &= y[i] == 2 * x[i] && __bfloat162float(narrow[i]) == 2 * x[i];
  }
  return right;
}

enum GridMutation {
  kSamePlace = 1,   // two blocks store to one element
  kReadsOther,      // a block reads what another stores
  kPlainAndAtomic,  // one block adds atomically, another plainly
  kSameWord,        // harmless neighbours in a word, then one too far
  kSpins,           // a block waits for another to store
};

// Blocks store bf16 elements side by side (two blocks share a word at each seam) and count themselves.
TILEWRIGHT_KERNEL void side_by_side(__nv_bfloat16* y, int* counter, int mutation) {
  const int width = 33;
  const int block = static_cast<int>(blockIdx.x);
  const int t = static_cast<int>(threadIdx.x);
  for (int i = t; i < width; i += 32) {
    const int extra = mutation == kSameWord && i == width - 1 && block == 1 ? 1 : 0;
    y[block * width + i + extra] = __float2bfloat16(static_cast<float>(block));
  }
  if (t != 0) return;
  if (mutation == kSamePlace) y[7] = __float2bfloat16(1.0f);
  if (mutation == kReadsOther && block == 2) y[2 * width] = y[0];
  if (mutation == kSpins) {
    while (*reinterpret_cast<volatile int*>(counter) < 4 && block != 2) {
    }
  }
  if (mutation == kPlainAndAtomic && block == 2) {
    *counter += 1;
  } else {
    atomicAdd(counter, 1);
  }
}

bool run_grid(int mutation) {
  Global<__nv_bfloat16> y(4 * 33, Use::output, "y");
  Global<int> counter(1, Use::in_out, "counter");
  counter[0] = 0;
  cuda::launch(side_by_side, {dim3(4), 32}, nullptr, y.data(), counter.data(), mutation);
  // Launches follow one another: what one stored, the next may read and store again.
  cuda::launch(side_by_side, {dim3(4), 32}, nullptr, y.data(), counter.data(), mutation);
  bool right = counter[0] == 8;
  for (size_t i = 0; i < y.size(); ++i) right &= __bfloat162float(y[i]) == static_cast<float>(i / 33);
  return right;
}

const harness::Registration memory({"memory",
                                    {"read_beyond", "read_before", "write_beyond", "write_input",
                                     "null_pointer", "stray_pointer", "shared_beyond", "shared_before",
                                     "shared_unwritten", "output_unwritten", "misaligned_vector",
                                     "misaligned_scalar", "register_index", "index_overflow", "copy_beyond",
                                     "half_written", "neighbour_bf16"},
                                    run});
const harness::Registration grid({"grid",
                                  {"same_place", "reads_other", "plain_and_atomic", "same_word", "spins"},
                                  run_grid});

}  // namespace
