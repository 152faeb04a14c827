// How many multiprocessors the current device has: what a persistent grid is sized by.
#pragma once

#include "cuda/check.cuh"
#include "cuda/platform.cuh"

namespace tilewright::cuda {

inline int multiprocessors() {
#if TILEWRIGHT_EMULATED
  return 4;  // few, so that small problems already take each block around its loop several times
#else
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "asking for the number of multiprocessors");
  return count;
#endif
}

}  // namespace tilewright::cuda
