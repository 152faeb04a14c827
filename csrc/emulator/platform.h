// What nvcc gives a kernel, for g++: types, qualifiers that mean nothing here, the built-in variables, and
// the device functions that the CUDA headers leave out on the host.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __SANITIZE_THREAD__
// The sanitizer leaves these two to its runtime library, which is not there.
extern "C" void* memcpy(void*, const void*, size_t) noexcept __asm__("tilewright_emulated_memcpy");
extern "C" void* memset(void*, int, size_t) noexcept __asm__("tilewright_emulated_memset");
#endif

#define TILEWRIGHT_DEVICE inline __attribute__((always_inline))
#define TILEWRIGHT_KERNEL

#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif
#ifndef __grid_constant__
#define __grid_constant__
#endif

namespace tilewright::emulator {

// Of the thread that runs now. The same whenever a thread asks.
__attribute__((const)) uint3 thread_index();
__attribute__((const)) uint3 block_index();
__attribute__((const)) dim3 block_size();
__attribute__((const)) dim3 grid_size();

// The dynamic shared memory of the block that runs now, aligned to 1024 bytes.
__attribute__((const)) unsigned char* shared_memory();

}  // namespace tilewright::emulator

#define threadIdx (::tilewright::emulator::thread_index())
#define blockIdx (::tilewright::emulator::block_index())
#define blockDim (::tilewright::emulator::block_size())
#define gridDim (::tilewright::emulator::grid_size())

#define TILEWRIGHT_SHARED(name) unsigned char* const name = ::tilewright::emulator::shared_memory()

#include "emulator/device_functions.h"
