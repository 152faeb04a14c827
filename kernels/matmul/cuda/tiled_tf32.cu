// The tiled kernel's instances for fp32 multiplied as tf32. Copies of one element, 4 bytes, are asynchronous
// and take any strides, so they are all that there is below 16 bytes.
#include "matmul/cuda/lists.h"
#include "matmul/cuda/tiled.cuh"

namespace tilewright::cuda {

namespace {

constexpr Major k = Major::k, mn = Major::mn;

// Eight warps of 64 x 32: rounding to tf32 takes registers that 64 x 64 sums would not leave.
template <Major a, Major b>
using Square = BlockShape<Tf32, 128, 128, 32, 2, 4, 3, a, b>;
template <Major a, Major b>
using Half = BlockShape<Tf32, 64, 128, 32, 2, 2, 4, a, b>;
template <Major a, Major b>
using Small = BlockShape<Tf32, 64, 64, 32, 2, 2, 4, a, b>;

template <class Shape, CopyWidth width = CopyWidth::bytes16>
constexpr MatmulInstance instance() {
  return tiled_instance<Shape, width>(DataType::f32);
}

constexpr MatmulInstance kInstances[] = {
    instance<Square<k, k>>(),
    instance<Half<k, k>>(),
    instance<Small<k, k>>(),
    instance<Square<k, mn>>(),
    instance<Half<k, mn>>(),
    instance<Small<k, mn>>(),
    instance<Square<mn, mn>>(),
    instance<Small<mn, mn>>(),
    instance<Small<mn, k>>(),
    instance<Small<k, k>, CopyWidth::element>(),
    instance<Small<k, mn>, CopyWidth::element>(),
    instance<Small<mn, mn>, CopyWidth::element>(),
    instance<Small<mn, k>, CopyWidth::element>(),
};

}  // namespace

std::span<const MatmulInstance> tiled_tf32_instances() {
  return kInstances;
}

}  // namespace tilewright::cuda
