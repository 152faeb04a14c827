// The sm_90a rows of the matmul table, a list for each type. Needs no CUDA header.
#pragma once

#include <span>

#include "matmul/cuda/matmul.h"

namespace tilewright::cuda {

std::span<const MatmulInstance> sm90_bf16_instances();
std::span<const MatmulInstance> sm90_f16_instances();
std::span<const MatmulInstance> sm90_tf32_instances();

}  // namespace tilewright::cuda
