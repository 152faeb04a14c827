// The emulator's side of cuda/ptx/address.cuh.
#pragma once

#include <cstdint>

namespace tilewright::ptx {

uint32_t shared_address(const void* shared);

}  // namespace tilewright::ptx
