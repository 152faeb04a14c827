#include "cuda/device.h"

#if !defined(TILEWRIGHT_EMULATED)

#include <cuda_runtime_api.h>

#include <string>

#include "cuda/error.h"

namespace tilewright::cuda {

void use_device(int index) {
  const cudaError_t status = cudaSetDevice(index);
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw Error("CUDA device " + std::to_string(index) + " cannot be used: " + cudaGetErrorString(status) +
              " (" + cudaGetErrorName(status) + ")");
}

}  // namespace tilewright::cuda

#else

namespace tilewright::cuda {

void use_device(int) {}

}  // namespace tilewright::cuda

#endif
