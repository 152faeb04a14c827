#include "conv2d/cuda/instances.h"

#include <vector>

namespace tilewright::cuda {

std::span<const Conv2dInstance> conv2d_instances() {
  static const std::vector<Conv2dInstance> all = [] {
    std::vector<Conv2dInstance> found;
    for (const auto& list :
         {conv::implicit_gemm_bf16(), conv::implicit_gemm_f16(), conv::implicit_gemm_tf32()}) {
      found.insert(found.end(), list.begin(), list.end());
    }
    for (const auto& one : {conv::depthwise_bf16(), conv::depthwise_f16(), conv::depthwise_f32()}) {
      found.push_back(one);
    }
    return found;
  }();
  return all;
}

}  // namespace tilewright::cuda
