#include "matmul/cpu/plan.h"

#include "cpu/features.h"
#include "cpu/threads.h"
#include "plan_checks.h"

namespace tilewright {

namespace {

PackB pack_of(const std::string& name) {
  if (name == "private") return PackB::private_;
  if (name == "shared") return PackB::shared;
  if (name == "frozen") return PackB::frozen;
  fail("pack_b is '" + name + "'; expected private, shared or frozen");
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
  check_compute(g.dtype, kernel_->compute);
  g.epilogue.bf16_units = kernel_->compute == Compute::bf16;
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
