// What plans check before any kernel trusts a number. All throw std::invalid_argument with a sentence that
// names the field.
#pragma once

#include <string>
#include <vector>

#include "instances.h"

namespace tilewright {

constexpr int64_t kMaxBlock = int64_t{1} << 20;
constexpr size_t kMaxWorkspace = size_t{1} << 30;
constexpr int kMaxThreads = 1024;

[[noreturn]] void fail(const std::string& what);
void require(bool condition, const std::string& what);

int64_t checked_mul(int64_t a, int64_t b, const char* what);
int64_t checked_add(int64_t a, int64_t b, const char* what);

Dtype dtype_of(const std::string& name, const char* field);
Activation activation_of(const std::string& name);
Compute compute_of(const std::string& name);

// The walk over these sizes with these strides must stay within 64-bit byte offsets.
void check_extent(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, const char* what);

// The level of that name, if this build has it and this processor runs it.
const IsaKernels& runnable_isa(const std::string& name);

// Whether this processor multiplies operands of the dtype in that way.
void check_compute(Dtype dtype, Compute compute);

}  // namespace tilewright
