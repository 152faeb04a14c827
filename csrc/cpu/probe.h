// What the machine can do at best: the yardstick of every measurement.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tilewright {

// One thread's share, per ISA level; probe.cpp in csrc/cpu times them.
struct Probe {
  // Runs `rounds` rounds of independent multiply-adds in registers; returns the FLOPs done.
  double (*multiply_f32)(int64_t rounds);
  // The same through the processor's bf16 dot products, where the level has such a build; else null.
  double (*multiply_bf16)(int64_t rounds);
  // Reads a buffer once; the sum keeps the loads alive.
  float (*read)(const float* data, size_t count);
};

struct IsaKernels;

// FLOP/s of `threads` threads multiplying for about `seconds`: the best of the intervals measured.
double peak_flops(const IsaKernels& isa, bool bf16_units, int threads, double seconds);

// Bytes per second that `threads` threads read from a buffer of `bytes`, over about `seconds`.
double read_bandwidth(const IsaKernels& isa, int threads, size_t bytes, double seconds);

}  // namespace tilewright
