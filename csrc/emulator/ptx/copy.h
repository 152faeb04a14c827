// The emulator's side of cuda/ptx/copy.cuh.
#pragma once

#include <cstdint>

#include "emulator/platform.h"

namespace tilewright::emulator {

void copy_async(void* shared, const void* global, int bytes, int valid_bytes);
void wait_copies(int still_open);

}  // namespace tilewright::emulator

namespace tilewright::ptx {

template <int bytes>
inline void cp_async(void* shared, const void* global, int valid_bytes) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  emulator::copy_async(shared, global, bytes, valid_bytes);
}

void cp_async_commit();

template <int still_open>
inline void cp_async_wait() {
  emulator::wait_copies(still_open);
}

// By value, so that what they load into need not have an address.
uint4 load_streaming_16(const void* global);
uint2 load_streaming_8(const void* global);
uint32_t load_streaming_4(const void* global);

}  // namespace tilewright::ptx
