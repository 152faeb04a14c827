// The tiled kernel's instances for bf16.
#include "matmul/cuda/lists.h"
#include "matmul/cuda/tiled_16bit.cuh"

namespace tilewright::cuda {

std::span<const MatmulInstance> tiled_bf16_instances() {
  return tiled::k16BitInstances<__nv_bfloat16, DataType::bf16>;
}

}  // namespace tilewright::cuda
