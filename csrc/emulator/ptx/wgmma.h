// The emulator's side of cuda/ptx/wgmma.cuh.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/types.h"
#include "emulator/hopper/operand.h"
#include "emulator/platform.h"

namespace tilewright::emulator {

void start_multiply(float* registers, int n, Operand type, bool a_mn_major, bool b_mn_major,
                    uint64_t a_descriptor, uint64_t b_descriptor, bool accumulate);
void wait_for_multiplies(int groups);
void change_registers(int registers, bool grow);

}  // namespace tilewright::emulator

namespace tilewright::ptx {

void wgmma_fence();
void wgmma_commit();

// Inlined, as are all that only forward: a report names the line of the kernel that called.
template <int n>
[[gnu::always_inline]] inline void wgmma_wait() {
  emulator::wait_for_multiplies(n);
}

// Keeps a compiler from moving uses of the sums, which the escaped address does here.
[[gnu::always_inline]] inline void fence_operand(float&) {}

template <int n>
[[gnu::always_inline]] inline void registers_grow() {
  emulator::change_registers(n, true);
}

template <int n>
[[gnu::always_inline]] inline void registers_shrink() {
  emulator::change_registers(n, false);
}

template <int N, class T, bool a_mn_major, bool b_mn_major>
[[gnu::always_inline]] inline void wgmma(float (&d)[N / 2], uint64_t a_descriptor, uint64_t b_descriptor,
                                         bool accumulate) {
  static_assert(N >= 8 && N <= 256 && N % 8 == 0);
  constexpr bool is_tf32 = std::is_same_v<T, cuda::Tf32>;
  static_assert(is_tf32 || std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>);
  static_assert(!is_tf32 || !(a_mn_major || b_mn_major));
  constexpr emulator::Operand type = is_tf32                            ? emulator::Operand::tf32
                                     : std::is_same_v<T, __nv_bfloat16> ? emulator::Operand::bf16
                                                                        : emulator::Operand::f16;
  emulator::start_multiply(d, N, type, a_mn_major, b_mn_major, a_descriptor, b_descriptor, accumulate);
}

}  // namespace tilewright::ptx
