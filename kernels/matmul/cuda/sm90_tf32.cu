#include "matmul/cuda/sm90_instances.h"
#include "matmul/cuda/sm90_launch.cuh"

namespace tilewright::cuda {
namespace {

// wgmma reads 32-bit operands K-major only: A by rows, B by columns (a linear layer's weight as torch keeps
// it).
using WideTf32 = Wide<Tf32, false, false>;
using SquareTf32 = Square<Tf32, false, false>;

constexpr MatmulInstance kInstances[] = {
    sm90_instance<WideTf32, 2>(),
    sm90_instance<SquareTf32, 2>(),
    sm90_instance<SquareTf32, 1>(),
};

}  // namespace

std::span<const MatmulInstance> sm90_tf32_instances() {
  return kInstances;
}

}  // namespace tilewright::cuda
