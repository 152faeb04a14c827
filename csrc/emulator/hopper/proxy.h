// The asynchronous proxy: TMA and wgmma see what threads wrote to shared memory only after the writer's
// fence_async_proxy. The model is stricter than the hardware's: it is the writing thread that must fence,
// after the write and before it tells whoever starts the asynchronous operation.
#pragma once

#include <vector>

#include "emulator/block.h"

namespace tilewright::emulator {

// The epochs of a thread in which it fenced, ascending.
struct ProxyFences {
  std::vector<Epoch> epochs;
};

// Reports where an operation that `actor` does through the asynchronous proxy meets, in [address, address +
// bytes) of shared memory, what a thread wrote without a fence. `verb`: "reads" or "overwrites".
void check_proxy(const Actor& actor, const void* address, size_t bytes, Site site, const char* operation,
                 const char* verb);

}  // namespace tilewright::emulator
