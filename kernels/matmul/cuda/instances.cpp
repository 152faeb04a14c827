// The one table of the CUDA matmul kernels.
#include <vector>

#include "matmul/cuda/lists.h"
#include "matmul/cuda/matmul.h"
#include "matmul/cuda/sm90_instances.h"

#ifndef TILEWRIGHT_HAS_SM90A
#define TILEWRIGHT_HAS_SM90A 0
#endif

namespace tilewright::cuda {

namespace {

std::vector<MatmulInstance> all_instances() {
  std::vector<MatmulInstance> all;
  auto add = [&](std::span<const MatmulInstance> list) { all.insert(all.end(), list.begin(), list.end()); };
#if TILEWRIGHT_HAS_SM90A
  add(sm90_bf16_instances());
  add(sm90_f16_instances());
  add(sm90_tf32_instances());
#endif
  add(tiled_bf16_instances());
  add(tiled_f16_instances());
  add(tiled_tf32_instances());
  add(skinny_bf16_instances());
  add(skinny_f16_instances());
  add(skinny_f32_instances());
  return all;
}

}  // namespace

std::span<const MatmulInstance> matmul_instances() {
  static const std::vector<MatmulInstance> all = all_instances();
  return all;
}

}  // namespace tilewright::cuda
