// wgmma: a warpgroup (128 threads, four warps from a multiple of four on) multiplies tiles that lie in shared
// memory into sums in its registers, asynchronously. sm_90a.
//
// Thread t of the warpgroup holds, of the 64 x N sums, d[4j + e] = row 16 (t / 32) + (t % 32) / 4 + 8 (e /
// 2), column 8 j + 2 (t % 4) + e % 2.
//
// Order of a step: wgmma_fence, any number of wgmma, wgmma_commit; the sums may be touched after wgmma_wait.
// fence_operand on every sum, before the fence and after the wait, keeps the compiler from moving their uses
// across (ptxas then serialises, with message C7510 and its kin).
#pragma once

#include "cuda/platform.cuh"
#include "cuda/ptx/descriptor.cuh"

#if TILEWRIGHT_EMULATED

#include "emulator/ptx/wgmma.h"

#else

#include <type_traits>

namespace tilewright::ptx {

TILEWRIGHT_DEVICE void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

TILEWRIGHT_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most n groups are in flight.
template <int n>
TILEWRIGHT_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}

TILEWRIGHT_DEVICE void fence_operand(float& value) {
  asm volatile("" : "+f"(value)::"memory");
}

// Registers of each of the warpgroup's threads: n in 24 .. 240, a multiple of 8; all four warps call.
template <int n>
TILEWRIGHT_DEVICE void registers_grow() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

template <int n>
TILEWRIGHT_DEVICE void registers_shrink() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}

// Lists of operands "%t0, %t1, …" by tens, and of the sums they stand for.
#define TILEWRIGHT_NAMES_2(t) "%" #t "0, %" #t "1"
#define TILEWRIGHT_NAMES_6(t) TILEWRIGHT_NAMES_2(t) ", %" #t "2, %" #t "3, %" #t "4, %" #t "5"
#define TILEWRIGHT_NAMES_8(t) TILEWRIGHT_NAMES_6(t) ", %" #t "6, %" #t "7"
#define TILEWRIGHT_NAMES_10(t) TILEWRIGHT_NAMES_8(t) ", %" #t "8, %" #t "9"
#define TILEWRIGHT_NAMES_30() \
  TILEWRIGHT_NAMES_10() ", " TILEWRIGHT_NAMES_10(1) ", " TILEWRIGHT_NAMES_10(2) ", "
#define TILEWRIGHT_NAMES_60() \
  TILEWRIGHT_NAMES_30()       \
  TILEWRIGHT_NAMES_10(3) ", " TILEWRIGHT_NAMES_10(4) ", " TILEWRIGHT_NAMES_10(5) ", "
#define TILEWRIGHT_NAMES_90() \
  TILEWRIGHT_NAMES_60()       \
  TILEWRIGHT_NAMES_10(6) ", " TILEWRIGHT_NAMES_10(7) ", " TILEWRIGHT_NAMES_10(8) ", "
#define TILEWRIGHT_NAMES_120() \
  TILEWRIGHT_NAMES_90()        \
  TILEWRIGHT_NAMES_10(9) ", " TILEWRIGHT_NAMES_10(10) ", " TILEWRIGHT_NAMES_10(11) ", "

#define TILEWRIGHT_SUMS_8(i)                                                                  \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define TILEWRIGHT_SUMS_32(i) \
  TILEWRIGHT_SUMS_8(i), TILEWRIGHT_SUMS_8(i + 8), TILEWRIGHT_SUMS_8(i + 16), TILEWRIGHT_SUMS_8(i + 24)

// One instruction. `n0` … `n4` are the operands after the sums: the two descriptors, the flag, and (16-bit
// operands) which of them are MN-major.
#define TILEWRIGHT_WGMMA_16(SHAPE, TYPE, NAMES, n0, n1, n2, n3, n4, ...)                                   \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n2                                                    \
               ", 0;\n"                                                                                    \
               "wgmma.mma_async.sync.aligned." SHAPE ".f32." TYPE "." TYPE " {" NAMES "}, %" #n0 ", %" #n1 \
               ", p, 1, 1, %" #n3 ", %" #n4 ";\n}\n"                                                       \
               : __VA_ARGS__                                                                               \
               : "l"(a_descriptor), "l"(b_descriptor), "r"(static_cast<int>(accumulate)),                  \
                 "n"(a_mn_major ? 1 : 0), "n"(b_mn_major ? 1 : 0))
#define TILEWRIGHT_WGMMA_TF32(SHAPE, TYPE, NAMES, n0, n1, n2, n3, n4, ...)                                 \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n2                                                    \
               ", 0;\n"                                                                                    \
               "wgmma.mma_async.sync.aligned." SHAPE ".f32." TYPE "." TYPE " {" NAMES "}, %" #n0 ", %" #n1 \
               ", p, 1, 1;\n}\n"                                                                           \
               : __VA_ARGS__                                                                               \
               : "l"(a_descriptor), "l"(b_descriptor), "r"(static_cast<int>(accumulate)))

// Every N, for one type.
#define TILEWRIGHT_WGMMA_EACH_N(ONE, K, TYPE)                                                               \
  if constexpr (N == 64) {                                                                                  \
    ONE("m64n64k" K, TYPE, TILEWRIGHT_NAMES_30() TILEWRIGHT_NAMES_2(3), 32, 33, 34, 35, 36,                 \
        TILEWRIGHT_SUMS_32(0));                                                                             \
  } else if constexpr (N == 96) {                                                                           \
    ONE("m64n96k" K, TYPE, TILEWRIGHT_NAMES_30() TILEWRIGHT_NAMES_10(3) ", " TILEWRIGHT_NAMES_8(4), 48, 49, \
        50, 51, 52, TILEWRIGHT_SUMS_32(0), TILEWRIGHT_SUMS_8(32), TILEWRIGHT_SUMS_8(40));                   \
  } else if constexpr (N == 128) {                                                                          \
    ONE("m64n128k" K, TYPE, TILEWRIGHT_NAMES_60() "%60, %61, %62, %63", 64, 65, 66, 67, 68,                 \
        TILEWRIGHT_SUMS_32(0), TILEWRIGHT_SUMS_32(32));                                                     \
  } else if constexpr (N == 192) {                                                                          \
    ONE("m64n192k" K, TYPE, TILEWRIGHT_NAMES_90() TILEWRIGHT_NAMES_6(9), 96, 97, 98, 99, 100,               \
        TILEWRIGHT_SUMS_32(0), TILEWRIGHT_SUMS_32(32), TILEWRIGHT_SUMS_32(64));                             \
  } else {                                                                                                  \
    ONE("m64n256k" K, TYPE, TILEWRIGHT_NAMES_120() TILEWRIGHT_NAMES_8(12), 128, 129, 130, 131, 132,         \
        TILEWRIGHT_SUMS_32(0), TILEWRIGHT_SUMS_32(32), TILEWRIGHT_SUMS_32(64), TILEWRIGHT_SUMS_32(96));     \
  }

// d = A·B (accumulate: d + A·B) for a 64 x K tile of A and a K x N tile of B, K being 32 bytes: 16 for
// __nv_bfloat16 and __half, 8 for Tf32, whose operands are K-major only. d is in fp32.
template <int N, class T, bool a_mn_major, bool b_mn_major>
TILEWRIGHT_DEVICE void wgmma(float (&d)[N / 2], uint64_t a_descriptor, uint64_t b_descriptor,
                             bool accumulate) {
  static_assert(N == 64 || N == 96 || N == 128 || N == 192 || N == 256);
  static_assert(!std::is_same_v<T, cuda::Tf32> || !(a_mn_major || b_mn_major));
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    TILEWRIGHT_WGMMA_EACH_N(TILEWRIGHT_WGMMA_16, "16", "bf16")
  } else if constexpr (std::is_same_v<T, __half>) {
    TILEWRIGHT_WGMMA_EACH_N(TILEWRIGHT_WGMMA_16, "16", "f16")
  } else {
    static_assert(std::is_same_v<T, cuda::Tf32>);
    TILEWRIGHT_WGMMA_EACH_N(TILEWRIGHT_WGMMA_TF32, "8", "tf32")
  }
}

#undef TILEWRIGHT_NAMES_2
#undef TILEWRIGHT_NAMES_6
#undef TILEWRIGHT_NAMES_8
#undef TILEWRIGHT_NAMES_10
#undef TILEWRIGHT_NAMES_30
#undef TILEWRIGHT_NAMES_60
#undef TILEWRIGHT_NAMES_90
#undef TILEWRIGHT_NAMES_120
#undef TILEWRIGHT_SUMS_8
#undef TILEWRIGHT_SUMS_32
#undef TILEWRIGHT_WGMMA_16
#undef TILEWRIGHT_WGMMA_TF32
#undef TILEWRIGHT_WGMMA_EACH_N

}  // namespace tilewright::ptx

#endif
