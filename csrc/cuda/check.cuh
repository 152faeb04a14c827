// Errors of the CUDA runtime as exceptions.
#pragma once

#include "cuda/platform.cuh"

#if !TILEWRIGHT_EMULATED

#include <string>

#include "cuda/error.h"

namespace tilewright::cuda {

// Throws unless `status` is success. An error that a launch left behind is taken off the runtime's record, so
// that it is not reported a second time by whoever asks next.
inline void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw Error(what + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
}

}  // namespace tilewright::cuda

#endif
