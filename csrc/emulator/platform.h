// What nvcc gives a kernel, for g++: types, qualifiers that mean nothing here, and the built-in variables.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_types.h>

#include <cstddef>
#include <cstdint>

#define TILEWRIGHT_DEVICE inline
#define TILEWRIGHT_KERNEL

#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif

namespace tilewright::emulator {

struct Builtins {
  uint3 thread;
  uint3 block;
  dim3 block_size;
  dim3 grid_size;
};

// Those of the thread that runs now.
const Builtins& builtins();

// The dynamic shared memory of the block that runs now, aligned to 1024 bytes.
unsigned char* shared_memory();

}  // namespace tilewright::emulator

#define threadIdx (::tilewright::emulator::builtins().thread)
#define blockIdx (::tilewright::emulator::builtins().block)
#define blockDim (::tilewright::emulator::builtins().block_size)
#define gridDim (::tilewright::emulator::builtins().grid_size)

#define TILEWRIGHT_SHARED(name) unsigned char* const name = ::tilewright::emulator::shared_memory()
