#include "cuda/launch.cuh"

#include <string>

#include "cuda/error.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {
namespace {

constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostOfGrid = 65535;     // along y and z
constexpr size_t kMostShared = 227 * 1024;  // of the devices these kernels are for, sm_90's

void refuse(const std::string& what) {
  throw cuda::Error("emulated launch: " + what);
}

}  // namespace

void run_grid(const cuda::LaunchShape& shape, void (*call)(void*), void* context, size_t context_bytes,
              const void* kernel) {
  const dim3 grid = shape.grid;
  if (current != nullptr) refuse("from within a kernel");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > kMostOfGrid ||
      grid.z > kMostOfGrid) {
    refuse("a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
           std::to_string(grid.z) + " blocks");
  }
  if (shape.threads == 0 || shape.threads > kMostThreads || shape.threads % 32 != 0) {
    refuse(std::to_string(shape.threads) +
           " threads per block; these kernels use whole warps, at most 1024 threads");
  }
  if (shape.shared_bytes > kMostShared) {
    refuse(std::to_string(shape.shared_bytes) + " bytes of shared memory; at most " +
           std::to_string(kMostShared));
  }
  if (shape.cluster == 0 || shape.cluster > 16 || grid.x % shape.cluster != 0) {
    refuse("clusters of " + std::to_string(shape.cluster) + " in a grid of " + std::to_string(grid.x) +
           " along x");
  }
  // One past the entry: places are looked up as return addresses, which follow what they name.
  run({grid, shape.threads, shape.cluster, shape.shared_bytes, call, context, context_bytes,
       static_cast<const unsigned char*>(kernel) + 1});
}

uint3 thread_index() {
  return {current->index, 0, 0};
}
uint3 block_index() {
  return current->block->index;
}
dim3 block_size() {
  return dim3(resident->threads_per_block);
}
dim3 grid_size() {
  return resident->grid;
}
unsigned char* shared_memory() {
  return current->block->shared;
}

}  // namespace tilewright::emulator
