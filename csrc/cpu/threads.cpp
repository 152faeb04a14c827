#include "cpu/threads.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tilewright {

void parallel(int threads, ParallelBody body, void* context) {
#if defined(_OPENMP)
  if (threads > 1) {
    // The count is given with every region: torch's setting is per Python thread, OpenMP's default is not it.
#pragma omp parallel num_threads(threads)
    body(context, omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  (void)threads;
  body(context, 0, 1);
}

void barrier(int team) {
#if defined(_OPENMP)
  if (team > 1) {
#pragma omp barrier
  }
#endif
  (void)team;
}

bool built_with_openmp() {
#if defined(_OPENMP)
  return true;
#else
  return false;
#endif
}

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kKeptBytes = size_t{64} << 20;  // larger blocks are not worth holding between calls

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;

  void release() {
    std::free(memory);
    memory = nullptr;
    bytes = 0;
  }
  ~Block() {
    release();
  }
};

}  // namespace

void prefer_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

void* workspace(size_t bytes) {
  thread_local Block block;
  if (bytes <= block.bytes && (block.bytes <= kKeptBytes || bytes > kKeptBytes)) return block.memory;
  block.release();
  const bool huge = bytes >= kHugePage;
  const size_t alignment = huge ? kHugePage : 64;
  if (bytes > SIZE_MAX - alignment) throw std::bad_alloc();
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
  if (memory == nullptr) throw std::bad_alloc();
  if (huge) prefer_huge_pages(memory, rounded);
  block.memory = memory;
  block.bytes = rounded;
  return memory;
}

}  // namespace tilewright
