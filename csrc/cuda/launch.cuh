// How a kernel is started: a plain function call, because g++ cannot read <<<>>>.
#pragma once

#include "cuda/platform.cuh"

namespace tilewright::cuda {

struct LaunchShape {
  dim3 grid;
  unsigned threads = 0;
  unsigned cluster = 1;     // blocks of a cluster, along x; the grid is a multiple of it
  size_t shared_bytes = 0;  // dynamic shared memory of a block
};

}  // namespace tilewright::cuda

#if TILEWRIGHT_EMULATED

#include "emulator/launch.h"

#else

#include <string>
#include <utility>

#include "cuda/check.cuh"

namespace tilewright::cuda {

inline constexpr size_t kSharedBytesByDefault = 48 * 1024;  // more must be asked for, kernel by kernel
inline constexpr unsigned kPortableCluster = 8;             // so must larger clusters

// Starts `kernel` on the current device's `stream`. Throws what the runtime refuses; what goes wrong while
// the kernel runs is reported by whatever synchronises next.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream,
            Arguments&&... arguments) {
  if (shape.shared_bytes > kSharedBytesByDefault) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          "asking for " + std::to_string(shape.shared_bytes) + " bytes of shared memory");
  }
  if (shape.cluster > kPortableCluster) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "asking for clusters of " + std::to_string(shape.cluster));
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = shape.cluster;
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  if (status != cudaSuccess) {
    check(status, "launching " + std::to_string(shape.grid.x) + " x " + std::to_string(shape.grid.y) + " x " +
                      std::to_string(shape.grid.z) + " blocks of " + std::to_string(shape.threads) +
                      " threads, " + std::to_string(shape.shared_bytes) +
                      " bytes of shared memory, clusters of " + std::to_string(shape.cluster));
  }
}

}  // namespace tilewright::cuda

#endif
