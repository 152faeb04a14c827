// The device functions that the emulator supplies, and launches that no device takes.
#include "cuda/error.h"
#include "harness.h"

using namespace tilewright;
using emulator::Use;
using harness::Global;

namespace {

TILEWRIGHT_KERNEL void functions(uint32_t* y) {
  if (threadIdx.x != 0) return;
  y[0] = __float_as_uint(1.0f);
  y[1] = __float_as_uint(__uint_as_float(0x7fc00001u));
  y[2] = static_cast<uint32_t>(__popc(0xf0f0u));
  y[3] = static_cast<uint32_t>(__clz(1));
  y[4] = static_cast<uint32_t>(__ffs(8));
  y[5] = __byte_perm(0x33221100u, 0x77665544u, 0x5410);
  y[6] = __byte_perm(0x000080ffu, 0, 0x9888);  // signs
  y[7] = __umulhi(0x80000000u, 6);
  y[8] = __float_as_uint(rsqrtf(4.0f));
  y[9] = gridDim.x * 100 + blockDim.x;
}

bool run_functions() {
  Global<uint32_t> y(10, Use::output, "y");
  cuda::launch(functions, {dim3(1), 32}, nullptr, y.data());
  const uint32_t expected[] = {0x3f800000u, 0x7fc00001u, 8, 31,          4,
                               0x55441100u, 0xffffffffu, 3, 0x3f000000u, 132};
  return std::memcmp(expected, y.data(), sizeof(expected)) == 0;
}

bool refused(const cuda::LaunchShape& shape) {
  Global<uint32_t> y(10, Use::output, "y");
  try {
    cuda::launch(functions, shape, nullptr, y.data());
  } catch (const cuda::Error&) {
    return true;
  }
  return false;
}

bool run_refusals() {
  return refused({dim3(0), 32}) && refused({dim3(1, 65536), 32}) && refused({dim3(1), 0}) &&
         refused({dim3(1), 33}) && refused({dim3(1), 1056}) && refused({dim3(1), 32, 1, 228 * 1024}) &&
         refused({dim3(3), 32, 2}) && !refused({dim3(1), 32, 1, 227 * 1024});
}

TILEWRIGHT_KERNEL void traps() {
  if (threadIdx.x == 40) __trap();
}

bool run_trap(int mutation) {
  if (mutation != 0) cuda::launch(traps, {dim3(2), 64}, nullptr);
  return true;
}

const harness::Registration supplied({"device_functions", {}, [](int) { return run_functions(); }});
const harness::Registration refusals({"refused_launches", {}, [](int) { return run_refusals(); }});
const harness::Registration trap({"trap", {"traps"}, run_trap});

}  // namespace
