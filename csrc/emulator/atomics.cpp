#include <cstring>

#include "cuda/platform.cuh"
#include "emulator/memory/memory.h"
#include "emulator/report.h"

namespace tilewright::emulator {
namespace {

template <class T>
T add(T* to, T value, Site site) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(T) != 0) fail(Kind::misaligned, site, "atomicAdd: address");
  if (!check_access(actor_of(*current), to, sizeof(T), kWrite | kAtomic, site)) abandon();
  const T before = *to;
  *to = before + value;
  return before;
}

}  // namespace

float atomic_add(float* to, float value) {
  return add(to, value, __builtin_return_address(0));
}
int atomic_add(int* to, int value) {
  return add(to, value, __builtin_return_address(0));
}
unsigned atomic_add(unsigned* to, unsigned value) {
  return add(to, value, __builtin_return_address(0));
}

// Blocks run one after another here, and nothing between blocks is ordered in the race detector's eyes.
void threadfence() {}

void trap() {
  fail(Kind::launch, __builtin_return_address(0), "the kernel trapped");
}

}  // namespace tilewright::emulator
