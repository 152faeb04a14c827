// The tiled kernel's instances for f16.
#include "matmul/cuda/lists.h"
#include "matmul/cuda/tiled_16bit.cuh"

namespace tilewright::cuda {

std::span<const MatmulInstance> tiled_f16_instances() {
  return tiled::k16BitInstances<__half, DataType::f16>;
}

}  // namespace tilewright::cuda
