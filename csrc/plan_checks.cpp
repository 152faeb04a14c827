#include "plan_checks.h"

#include <stdexcept>

#include "cpu/features.h"

namespace tilewright {

void fail(const std::string& what) {
  throw std::invalid_argument(what);
}

void require(bool condition, const std::string& what) {
  if (!condition) fail(what);
}

int64_t checked_mul(int64_t a, int64_t b, const char* what) {
  int64_t product = 0;
  require(!__builtin_mul_overflow(a, b, &product), std::string(what) + " does not fit 64 bits");
  return product;
}

int64_t checked_add(int64_t a, int64_t b, const char* what) {
  int64_t sum = 0;
  require(!__builtin_add_overflow(a, b, &sum), std::string(what) + " does not fit 64 bits");
  return sum;
}

Dtype dtype_of(const std::string& name, const char* field) {
  if (name == "f32") return Dtype::f32;
  if (name == "bf16") return Dtype::bf16;
  if (name == "f16") return Dtype::f16;
  fail(std::string(field) + " is '" + name + "'; expected f32, bf16 or f16");
}

Activation activation_of(const std::string& name) {
  const char* const names[] = {"none", "relu", "gelu", "gelu_tanh", "silu"};
  for (int code = 0; code < 5; ++code) {
    if (name == names[code]) return static_cast<Activation>(code);
  }
  fail("activation is '" + name + "'; expected none, relu, gelu, gelu_tanh or silu");
}

Compute compute_of(const std::string& name) {
  if (name == "f32") return Compute::f32;
  if (name == "bf16") return Compute::bf16;
  fail("compute is '" + name + "'; expected f32 or bf16");
}

void check_extent(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, const char* what) {
  require(strides.size() == sizes.size(), std::string(what) + " have " + std::to_string(strides.size()) +
                                              " entries; expected " + std::to_string(sizes.size()));
  int64_t extent = 0;
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    require(strides[dim] >= 0, std::string(what) + " are negative in dimension " + std::to_string(dim));
    if (sizes[dim] > 0) extent = checked_add(extent, checked_mul(sizes[dim] - 1, strides[dim], what), what);
  }
  checked_mul(extent, 4, what);
}

const IsaKernels& runnable_isa(const std::string& name) {
  std::string known;
  for (const IsaKernels* level : kIsaLevels) {
    if (name == level->isa) {
      require(machine_supports(name), "isa '" + name + "' is not supported by this processor");
      return *level;
    }
    known += (known.empty() ? "" : ", ") + std::string(level->isa);
  }
  fail("isa is '" + name + "'; this build has " + known);
}

void check_compute(Dtype dtype, Compute compute) {
  if (compute == Compute::f32) return;
  require(dtype == Dtype::bf16, "compute bf16 takes bf16 operands");
  require(machine_has("avx512bf16"), "compute bf16 needs AVX512-BF16, which this processor lacks");
}

}  // namespace tilewright
