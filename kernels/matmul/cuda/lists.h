// The lists that make up matmul_instances(), one or a few to a translation unit so that they compile side by
// side.
#pragma once

#include <span>

#include "matmul/cuda/matmul.h"

namespace tilewright::cuda {

std::span<const MatmulInstance> tiled_bf16_instances();
std::span<const MatmulInstance> tiled_f16_instances();
std::span<const MatmulInstance> tiled_tf32_instances();
std::span<const MatmulInstance> skinny_bf16_instances();
std::span<const MatmulInstance> skinny_f16_instances();
std::span<const MatmulInstance> skinny_f32_instances();

}  // namespace tilewright::cuda
