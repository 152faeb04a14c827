// Comes first in every .cu and .cuh: one source, two compilers. nvcc builds the kernels for a GPU; g++ with
// -DTILEWRIGHT_EMULATED builds the same files for the emulator, which runs them on the host
// (docs/emulator.md).
#pragma once

#ifndef TILEWRIGHT_EMULATED
#define TILEWRIGHT_EMULATED 0
#endif

#if !TILEWRIGHT_EMULATED

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#define TILEWRIGHT_DEVICE __device__ __forceinline__
#define TILEWRIGHT_KERNEL __global__

// Declares `name`, the block's dynamic shared memory. All shared memory is dynamic: on the host, a static
// __shared__ array would be an ordinary variable that no check sees. 1024 bytes is what 128-byte swizzles
// need.
#define TILEWRIGHT_SHARED(name)                                              \
  extern __shared__ __align__(1024) unsigned char tilewright_shared_bytes[]; \
  unsigned char* const name = tilewright_shared_bytes

#else

#include "emulator/platform.h"

#endif

#include "cuda/types.h"
