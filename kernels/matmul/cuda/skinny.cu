// The skinny kernel's instances.
#include "matmul/cuda/lists.h"
#include "matmul/cuda/skinny.cuh"
#include "matmul/cuda/skinny_float.cuh"

namespace tilewright::cuda {

namespace {

// Eight warps. 16-bit: all along k. fp32 along k: side by side, so that rows of A come from L1 to all but the
// first of them.
template <class T, DataType dtype>
constexpr MatmulInstance kSixteenBit[] = {
    skinny_instance<SkinnyShape<SkinnyAlongK<T, 1, 1>, 1, 8>>(dtype),
    skinny_instance<SkinnyShape<SkinnyAlongK<T, 2, 2>, 1, 8>>(dtype),
    skinny_instance<SkinnyShape<SkinnyAlongN<T>, 1, 8>>(dtype),
};

constexpr MatmulInstance kFloat[] = {
    skinny_instance<SkinnyShape<SkinnyFloatAlongK<4, 8>, 4, 2>>(DataType::f32),
    skinny_instance<SkinnyShape<SkinnyFloatAlongK<16, 4>, 8, 1>>(DataType::f32),
    skinny_instance<SkinnyShape<SkinnyFloatAlongN<4>, 1, 8>>(DataType::f32),
    skinny_instance<SkinnyShape<SkinnyFloatAlongN<16>, 1, 8>>(DataType::f32),
};

}  // namespace

std::span<const MatmulInstance> skinny_bf16_instances() {
  return kSixteenBit<__nv_bfloat16, DataType::bf16>;
}

std::span<const MatmulInstance> skinny_f16_instances() {
  return kSixteenBit<__half, DataType::f16>;
}

std::span<const MatmulInstance> skinny_f32_instances() {
  return kFloat;
}

}  // namespace tilewright::cuda
