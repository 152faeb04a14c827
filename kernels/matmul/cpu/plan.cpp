#include "plan.h"

#include <cstring>
#include <stdexcept>

#include "cpu/features.h"
#include "cpu/threads.h"

namespace tilewright {

namespace {

constexpr int64_t kMaxBlock = int64_t{1} << 20;
constexpr size_t kMaxWorkspace = size_t{1} << 30;
constexpr int kMaxThreads = 1024;

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument("MatmulPlan: " + what);
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

PackB pack_of(const std::string& name) {
  if (name == "private") return PackB::private_;
  if (name == "shared") return PackB::shared;
  if (name == "frozen") return PackB::frozen;
  fail("pack_b is '" + name + "'; expected private, shared or frozen");
}

// The walk over these sizes with these strides must stay within 64-bit byte offsets.
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

const MatmulKernel& find_kernel(const IsaKernels& isa, const MatmulRequest& r) {
  const bool gemm = r.algorithm == "gemm";
  require(gemm || r.algorithm == "gemv", "algorithm is '" + r.algorithm + "'; expected gemm or gemv");
  const Compute compute = compute_of(r.compute);
  for (const MatmulKernel* kernel = gemm ? isa.gemm : isa.gemv; kernel->algorithm != nullptr; ++kernel) {
    if (kernel->compute == compute && kernel->tile_m == r.tile_m && kernel->tile_n == r.tile_n)
      return *kernel;
  }
  fail("no " + r.algorithm + " that computes in " + r.compute + " with tile " + std::to_string(r.tile_m) +
       "x" + std::to_string(r.tile_n) + " was compiled for " + isa.isa);
}

void check_compute(const MatmulGeometry& g, Compute compute) {
  if (compute == Compute::f32) return;
  require(g.dtype == Dtype::bf16, "compute bf16 takes bf16 operands");
  require(machine_has("avx512bf16"), "compute bf16 needs AVX512-BF16, which this processor lacks");
}

void copy_batch(int64_t* to, const std::vector<int64_t>& from, int rank) {
  for (int dim = 0; dim < rank; ++dim) to[dim] = from[static_cast<size_t>(dim)];
}

}  // namespace

MatmulPlan::MatmulPlan(const MatmulRequest& r) {
  MatmulGeometry& g = geometry_;
  require(r.m >= 0 && r.n >= 0 && r.k >= 0, "m, n and k must not be negative");
  require(r.batch.size() <= kMaxBatchRank, "batch has more than 64 dimensions");
  int64_t count = 1;
  for (int64_t size : r.batch) {
    require(size >= 0, "batch sizes must not be negative");
    count = checked_mul(count, size, "the batch");
  }
  checked_mul(checked_mul(checked_mul(count, r.m, "the output"), r.n, "the output"), 4, "the output");

  std::vector<int64_t> sizes = r.batch;
  sizes.insert(sizes.end(), {r.m, r.k});
  check_extent(sizes, r.a_strides, "a_strides");
  sizes.resize(r.batch.size());
  sizes.insert(sizes.end(), {r.k, r.n});
  check_extent(sizes, r.b_strides, "b_strides");
  check_extent({r.n}, {r.bias_stride}, "bias_stride");
  require(r.residual_strides.has_value() == r.residual_dtype.has_value(),
          "residual_strides and residual_dtype go together");

  g.m = r.m;
  g.n = r.n;
  g.k = r.k;
  g.batch_rank = static_cast<int>(r.batch.size());
  g.batch_count = count;
  copy_batch(g.batch, r.batch, g.batch_rank);
  copy_batch(g.a_batch, r.a_strides, g.batch_rank);
  copy_batch(g.b_batch, r.b_strides, g.batch_rank);
  g.a_m = r.a_strides[r.batch.size()];
  g.a_k = r.a_strides[r.batch.size() + 1];
  g.b_k = r.b_strides[r.batch.size()];
  g.b_n = r.b_strides[r.batch.size() + 1];
  g.dtype = dtype_of(r.dtype, "dtype");

  Epilogue& e = g.epilogue;
  e.activation = activation_of(r.activation);
  e.out_dtype = dtype_of(r.out_dtype, "out_dtype");
  e.out_row = r.n;
  g.keep_preact = r.keep_preact;
  g.has_bias = r.bias_dtype.has_value();
  if (g.has_bias) {
    e.bias_dtype = dtype_of(*r.bias_dtype, "bias_dtype");
    e.bias_stride = r.bias_stride;
  }
  g.has_residual = r.residual_dtype.has_value();
  if (g.has_residual) {
    sizes.resize(r.batch.size());
    sizes.insert(sizes.end(), {r.m, r.n});
    check_extent(sizes, *r.residual_strides, "residual_strides");
    copy_batch(g.residual_batch, *r.residual_strides, g.batch_rank);
    e.residual_row = (*r.residual_strides)[r.batch.size()];
    e.residual_col = (*r.residual_strides)[r.batch.size() + 1];
    e.residual_dtype = dtype_of(*r.residual_dtype, "residual_dtype");
  }

  for (int64_t block : {r.block_m, r.block_n, r.block_k}) {
    require(block >= 1 && block <= kMaxBlock, "block_m, block_n and block_k must be 1 to 1048576");
  }
  g.block_m = r.block_m;
  g.block_n = r.block_n;
  g.block_k = r.block_k;
  g.tile_m = r.tile_m;
  g.tile_n = r.tile_n;
  g.pack_b = pack_of(r.pack_b);
  require(g.pack_b == PackB::private_ || r.batch.empty(), "a batch needs pack_b private");
  require(r.parts_m >= 1 && r.parts_n >= 1 && r.parts_m <= kMaxThreads && r.parts_n <= kMaxThreads &&
              r.parts_m * r.parts_n <= kMaxThreads,
          "parts_m, parts_n and their product must be 1 to 1024");
  g.parts_m = r.parts_m;
  g.parts_n = r.parts_n;
  require(r.prefetch >= 0 && r.prefetch <= kMaxBlock, "prefetch must be 0 to 1048576");
  g.prefetch = r.prefetch;
  require(r.threads >= 1 && r.threads <= kMaxThreads, "threads must be 1 to 1024");
  g.threads = r.threads;

  kernel_ = &find_kernel(runnable_isa(r.isa), r);
  check_compute(g, kernel_->compute);
  require(g.pack_b != PackB::frozen || kernel_->pack != nullptr, r.algorithm + " takes no frozen B");
  if (count == 0 || r.m == 0 || r.n == 0) return;  // nothing to compute; kernels need not know such cases
  if (r.algorithm == "gemv") {
    const bool swapped = r.m > r.n;
    require((swapped ? r.n : r.m) <= kGemvRows, "gemv takes at most 16 rows or columns");
    require((swapped ? g.a_m == 1 || g.a_k == 1 : g.b_n == 1 || g.b_k == 1),
            "gemv needs the matrix that it streams to have unit stride in one dimension");
  }
  workspace_bytes_ = kernel_->workspace(g);
  require(workspace_bytes_ <= kMaxWorkspace, "these blocks need more than 1 GiB of scratch memory");
}

void MatmulPlan::run(const MatmulPointers& p) const {
  const MatmulGeometry& g = geometry_;
  if (g.batch_count == 0 || g.m == 0 || g.n == 0) return;
  const bool inputs = g.k == 0 || (p.a != nullptr && p.b != nullptr);
  require(inputs && p.c != nullptr, "a, b and c must not be null");
  require((p.preact != nullptr) == g.keep_preact, "preact must be given exactly where keep_preact is set");
  require((p.bias != nullptr) == g.has_bias, "bias must be given exactly where bias_dtype is");
  require((p.residual != nullptr) == g.has_residual,
          "residual must be given exactly where residual_dtype is");
  kernel_->run(g, p, workspace(workspace_bytes_));
}

size_t MatmulPlan::packed_bytes() const {
  const MatmulGeometry& g = geometry_;
  if (g.pack_b != PackB::frozen || g.n == 0) return 0;
  return kernel_->packed_bytes(g);
}

void MatmulPlan::pack(const void* b, void* packed) const {
  require(geometry_.pack_b == PackB::frozen, "only a frozen B is packed beforehand");
  if (packed_bytes() == 0) return;
  require(b != nullptr && packed != nullptr, "b and packed must not be null");
  prefer_huge_pages(packed, packed_bytes());
  kernel_->pack(geometry_, b, packed);
}

}  // namespace tilewright
