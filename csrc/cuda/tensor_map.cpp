// Tensor maps as the driver encodes them. Its functions are looked up at run time: nothing links libcuda, and
// a machine without a driver gets an error when it asks for a map, not when it loads the library.
#include "cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include <string>

#include "cuda/error.h"

namespace tilewright::cuda {
namespace {

// Where a batch or a filter is walked, the next box is likely near: fetch whole lines and the one beside.
constexpr CUtensorMapL2promotion kPromotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
constexpr unsigned kDriverApi = 12000;  // the first with tensor maps

template <class Function>
Function driver_function(const char* name) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(name, &address, kDriverApi, cudaEnableDefault, &found);
  if (status != cudaSuccess) {
    cudaGetLastError();
    throw Error(std::string("tensor map: looking up ") + name + ": " + cudaGetErrorString(status) +
                "; a driver of CUDA 12.0 or later is needed");
  }
  if (found != cudaDriverEntryPointSuccess || address == nullptr) {
    throw Error(std::string("tensor map: the driver has no ") + name +
                "; a driver of CUDA 12.0 or later is needed");
  }
  return reinterpret_cast<Function>(address);
}

CUtensorMapDataType driver_type(DataType type) {
  switch (type) {
    case DataType::bf16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case DataType::f16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    default:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  }
}

CUtensorMapSwizzle driver_swizzle(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::b32:
      return CU_TENSOR_MAP_SWIZZLE_32B;
    case Swizzle::b64:
      return CU_TENSOR_MAP_SWIZZLE_64B;
    case Swizzle::b128:
      return CU_TENSOR_MAP_SWIZZLE_128B;
    default:
      return CU_TENSOR_MAP_SWIZZLE_NONE;
  }
}

template <class T>
std::string list(const T* values, int count) {
  std::string text = "(";
  for (int i = 0; i < count; ++i) text += (i > 0 ? ", " : "") + std::to_string(values[i]);
  return text + ")";
}

// The driver says no more than "invalid value"; this says of what, and what it takes.
[[noreturn]] void refused(CUresult result, const char* operation, DataType type, int rank, const void* base,
                          const uint64_t* sizes, const uint64_t* stride_bytes, Swizzle swizzle,
                          const std::string& box) {
  throw Error(
      std::string(operation) + ": the driver refuses (error " + std::to_string(result) + ") elements of " +
      std::to_string(size_of(type)) + " bytes, base " + std::to_string(reinterpret_cast<uintptr_t>(base)) +
      ", sizes " + list(sizes, rank) + ", stride bytes " + list(stride_bytes, rank - 1) + ", " + box +
      ", rows of at most " + std::to_string(span_of(swizzle)) +
      " bytes; expected base and strides to be multiples of 16, strides below 2^40, sizes of 1 to 2^32");
}

}  // namespace

TensorMap tiled_map(DataType type, int rank, const void* base, const uint64_t* sizes,
                    const uint64_t* stride_bytes, const uint32_t* box, Swizzle swizzle) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  constexpr uint32_t kDense[5] = {1, 1, 1, 1, 1};
  TensorMap map;
  const CUresult result =
      encode(&map, driver_type(type), static_cast<uint32_t>(rank), const_cast<void*>(base), sizes,
             stride_bytes, box, kDense, CU_TENSOR_MAP_INTERLEAVE_NONE, driver_swizzle(swizzle), kPromotion,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    refused(result, "tiled_map", type, rank, base, sizes, stride_bytes, swizzle, "box " + list(box, rank));
  }
  return map;
}

TensorMap im2col_map(DataType type, const void* base, const uint64_t* sizes, const uint64_t* stride_bytes,
                     const int* lower_corner, const int* upper_corner, uint32_t channels_per_pixel,
                     uint32_t pixels_per_column, const uint32_t* traversal_stride, Swizzle swizzle) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  constexpr int kRank = 4;
  TensorMap map;
  const CUresult result = encode(&map, driver_type(type), kRank, const_cast<void*>(base), sizes, stride_bytes,
                                 lower_corner, upper_corner, channels_per_pixel, pixels_per_column,
                                 traversal_stride, CU_TENSOR_MAP_INTERLEAVE_NONE, driver_swizzle(swizzle),
                                 kPromotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    refused(result, "im2col_map", type, kRank, base, sizes, stride_bytes, swizzle,
            "corners " + list(lower_corner, 2) + " and " + list(upper_corner, 2) + ", traversal strides " +
                list(traversal_stride, kRank) + ", " + std::to_string(channels_per_pixel) + " channels of " +
                std::to_string(pixels_per_column) + " pixels");
  }
  return map;
}

}  // namespace tilewright::cuda
