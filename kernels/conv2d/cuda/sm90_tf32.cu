#include "conv2d/cuda/instances.h"
#include "conv2d/cuda/sm90_launch.cuh"

namespace tilewright::cuda::conv {

namespace {

constexpr Conv2dInstance kInstances[] = {
    sm90_conv_instance<ConvTile<Tf32, 128, 128, 6, Schedule::ping_pong>, 1>(),
};

}  // namespace

std::span<const Conv2dInstance> sm90_tf32() {
  return kInstances;
}

}  // namespace tilewright::cuda::conv
