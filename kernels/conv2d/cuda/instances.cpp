#include "conv2d/cuda/instances.h"

#include <vector>

namespace tilewright::cuda {

std::span<const Conv2dInstance> conv2d_instances() {
  static const std::vector<Conv2dInstance> all = [] {
    std::vector<Conv2dInstance> found;
    const auto add = [&](std::span<const Conv2dInstance> list) {
      found.insert(found.end(), list.begin(), list.end());
    };
#if TILEWRIGHT_HAS_SM90A
    add(conv::sm90_bf16());
    add(conv::sm90_f16());
    add(conv::sm90_tf32());
#endif
    add(conv::implicit_gemm_bf16());
    add(conv::implicit_gemm_f16());
    add(conv::implicit_gemm_tf32());
    for (const Conv2dInstance& one : {conv::depthwise_bf16(), conv::depthwise_f16(), conv::depthwise_f32()}) {
      found.push_back(one);
    }
    return found;
  }();
  return all;
}

}  // namespace tilewright::cuda
