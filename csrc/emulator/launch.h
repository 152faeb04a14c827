// Starts a kernel under the emulator; included by cuda/launch.cuh only.
#pragma once

#include <tuple>
#include <utility>

#include "emulator/platform.h"

namespace tilewright::emulator {

// Runs `call(context)` once per thread of the grid, and returns when all have ended; or, having reported why,
// when one cannot go on. Throws cuda::Error for a launch that no device would take.
void run_grid(const cuda::LaunchShape& shape, void (*call)(void*), void* context, size_t context_bytes,
              const void* kernel);

}  // namespace tilewright::emulator

namespace tilewright::cuda {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream, Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;  // every thread gets a copy of its own, as on a device
  };
  Call call{kernel, {static_cast<Parameters>(std::forward<Arguments>(arguments))...}};
  emulator::run_grid(
      shape,
      [](void* context) {
        Call& here = *static_cast<Call*>(context);
        std::apply(here.kernel, here.parameters);
      },
      &call, sizeof(call), reinterpret_cast<const void*>(kernel));
}

}  // namespace tilewright::cuda
