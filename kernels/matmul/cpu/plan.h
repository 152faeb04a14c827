// A matrix product whose geometry was checked once, ready to run any number of times.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "instances.h"

namespace tilewright {

// What a caller says; every field is checked by MatmulPlan. See kernels/matmul/problem.py for the meaning.
struct MatmulRequest {
  std::string isa, algorithm;
  int64_t m, n, k;
  std::vector<int64_t> batch;
  std::vector<int64_t> a_strides, b_strides;  // (*batch, m, k), (*batch, k, n)
  int64_t bias_stride;
  std::optional<std::vector<int64_t>> residual_strides;  // (*batch, m, n)
  std::string dtype, out_dtype;
  std::optional<std::string> bias_dtype, residual_dtype;
  std::string activation;
  bool keep_preact;
  std::string compute, pack_b;  // see CpuConfig in config.py, as for the rest
  int64_t block_m, block_n, block_k;
  int tile_m, tile_n;
  int64_t parts_m, parts_n;
  int64_t prefetch;
  int threads;
};

class MatmulPlan {
 public:
  // Throws std::invalid_argument with a sentence that names the field.
  explicit MatmulPlan(const MatmulRequest& request);

  // Computes into p.c (and p.preact). Many threads may run one plan at once. Throws std::invalid_argument
  // where a pointer that the geometry needs is null, std::bad_alloc where scratch memory is not to be had.
  void run(const MatmulPointers& p) const;

  // Where pack_b is frozen: the size of B's packed form, which takes the place of p.b, and what writes it.
  size_t packed_bytes() const;
  void pack(const void* b, void* packed) const;

  size_t workspace_bytes() const {
    return workspace_bytes_;
  }

 private:
  MatmulGeometry geometry_{};
  const MatmulKernel* kernel_ = nullptr;
  size_t workspace_bytes_ = 0;
};

}  // namespace tilewright
