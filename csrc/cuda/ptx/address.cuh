// The address of shared memory as instructions take it: 32 bits, counted from the start of the block's
// window.
#pragma once

#include "cuda/platform.cuh"

#if TILEWRIGHT_EMULATED

#include "emulator/ptx/address.h"

#else

namespace tilewright::ptx {

TILEWRIGHT_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

}  // namespace tilewright::ptx

#endif
