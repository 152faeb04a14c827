#include "conv2d/cuda/implicit_gemm_launch.cuh"
#include "conv2d/cuda/instances.h"

namespace tilewright::cuda::conv {

namespace {

constexpr Conv2dInstance kInstances[] = {
    implicit_gemm_instance<ConvShape<Tf32, 128, 128, 32, 2, 4, 3>, Copies::sixteen>(DataType::f32),
    implicit_gemm_instance<ConvShape<Tf32, 128, 64, 32, 2, 2, 3>, Copies::any>(DataType::f32),
    implicit_gemm_instance<ConvShape<Tf32, 64, 64, 32, 2, 2, 4>, Copies::any>(DataType::f32),
    implicit_gemm_instance<ConvShape<Tf32, 128, 16, 32, 4, 1, 3>, Copies::any>(DataType::f32),
};

}  // namespace

std::span<const Conv2dInstance> implicit_gemm_tf32() {
  return kInstances;
}

}  // namespace tilewright::cuda::conv
