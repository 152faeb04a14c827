#include "conv2d/cpu/plan.h"

#include "cpu/threads.h"
#include "plan_checks.h"

namespace tilewright {

namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;

const Conv2dKernel& find_kernel(const IsaKernels& isa, const Conv2dRequest& r) {
  const Compute compute = compute_of(r.compute);
  for (const Conv2dKernel* list : isa.conv2d) {
    for (const Conv2dKernel* kernel = list; kernel->algorithm != nullptr; ++kernel) {
      if (r.algorithm == kernel->algorithm && kernel->compute == compute) return *kernel;
    }
  }
  fail("no algorithm '" + r.algorithm + "' that computes in " + r.compute + " was compiled for " + isa.isa);
}

void check_walk(const Pair& image, int64_t batch, int64_t channels, const Strides& strides,
                const char* what) {
  check_extent({batch, channels, image[0], image[1]}, {strides.begin(), strides.end()}, what);
}

}  // namespace

Conv2dPlan::Conv2dPlan(const Conv2dRequest& r) {
  Conv2dGeometry& g = geometry_;
  for (int64_t size : {r.batch, r.in_channels, r.out_channels, r.size[0], r.size[1], r.out_size[0],
                       r.out_size[1], r.kernel[0], r.kernel[1]}) {
    require(size >= 0 && size <= kMaxSize, "sizes must be 0 to 2^31");
  }
  for (int64_t step :
       {r.groups, r.stride[0], r.stride[1], r.dilation[0], r.dilation[1], r.kernel[0], r.kernel[1]}) {
    require(step >= 1 && step <= kMaxSize, "groups, kernel, stride and dilation must be 1 to 2^31");
  }
  for (int64_t padding : r.padding) {
    require(padding >= -kMaxSize && padding <= kMaxSize, "padding must be -2^31 to 2^31");
  }
  require(r.in_channels % r.groups == 0 && r.out_channels % r.groups == 0,
          "in_channels and out_channels must be multiples of groups");
  g.batch = r.batch;
  g.groups = r.groups;
  g.in_channels = r.in_channels / r.groups;
  g.out_channels = r.out_channels / r.groups;
  check_walk(r.size, r.batch, r.in_channels, r.x_strides, "x_strides");
  check_walk(r.kernel, g.out_channels, g.in_channels, r.weight_strides, "weight_strides");
  check_extent({r.groups}, {r.weight_group_stride}, "weight_group_stride");
  check_walk(r.out_size, r.batch, r.out_channels, r.y_strides, "y_strides");
  check_extent({r.out_channels}, {r.bias_stride}, "bias_stride");
  require(r.y_strides[1] == 1 || r.y_strides[3] == 1 || !r.keep_preact,
          "keep_preact needs y_strides of 1 along channels or rows");
  require(r.residual_strides.has_value() == r.residual_dtype.has_value(),
          "residual_strides and residual_dtype go together");

  g.height = r.size[0];
  g.width = r.size[1];
  g.out_height = r.out_size[0];
  g.out_width = r.out_size[1];
  g.kernel_h = r.kernel[0];
  g.kernel_w = r.kernel[1];
  g.stride_h = r.stride[0];
  g.stride_w = r.stride[1];
  g.dilation_h = r.dilation[0];
  g.dilation_w = r.dilation[1];
  g.top = r.padding[0];
  g.left = r.padding[1];
  g.x_n = r.x_strides[0];
  g.x_c = r.x_strides[1];
  g.x_h = r.x_strides[2];
  g.x_w = r.x_strides[3];
  g.weight_g = r.weight_group_stride;
  g.weight_k = r.weight_strides[0];
  g.weight_c = r.weight_strides[1];
  g.weight_r = r.weight_strides[2];
  g.weight_s = r.weight_strides[3];
  if (r.flipped) {
    g.weight_origin = (g.kernel_h - 1) * g.weight_r + (g.kernel_w - 1) * g.weight_s;
    g.weight_r = -g.weight_r;
    g.weight_s = -g.weight_s;
  }
  g.y_n = r.y_strides[0];
  g.y_k = r.y_strides[1];
  g.y_h = r.y_strides[2];
  g.y_w = r.y_strides[3];
  g.dtype = dtype_of(r.dtype, "dtype");
  g.activation = activation_of(r.activation);
  g.keep_preact = r.keep_preact;
  g.has_bias = r.bias_dtype.has_value();
  if (g.has_bias) {
    g.bias_dtype = dtype_of(*r.bias_dtype, "bias_dtype");
    g.bias_stride = r.bias_stride;
  }
  g.has_residual = r.residual_dtype.has_value();
  if (g.has_residual) {
    check_walk(r.out_size, r.batch, r.out_channels, *r.residual_strides, "residual_strides");
    g.residual_n = (*r.residual_strides)[0];
    g.residual_k = (*r.residual_strides)[1];
    g.residual_h = (*r.residual_strides)[2];
    g.residual_w = (*r.residual_strides)[3];
    g.residual_dtype = dtype_of(*r.residual_dtype, "residual_dtype");
  }

  for (int64_t block : {r.block_h, r.block_w, r.block_n, r.block_c}) {
    require(block >= 1 && block <= kMaxBlock, "block_h, block_w, block_n and block_c must be 1 to 1048576");
  }
  g.block_h = r.block_h;
  g.block_w = r.block_w;
  g.block_n = r.block_n;
  g.block_c = r.block_c;
  require(r.parts >= 1 && r.parts <= kMaxThreads, "parts must be 1 to 1024");
  g.parts = r.parts;
  g.frozen = r.frozen;
  require(r.threads >= 1 && r.threads <= kMaxThreads, "threads must be 1 to 1024");
  g.threads = r.threads;

  // What a block's windows cover, and the packed weight, are sizes that kernels multiply without looking.
  // Rows of a block may belong to as many images.
  const auto window = [&](size_t dim) {
    return checked_add(r.stride[dim], checked_mul(r.kernel[dim], r.dilation[dim], "a block"), "a block") + 16;
  };
  const int64_t width =
      checked_add(checked_mul(g.out_width + 16, r.stride[1], "a block"), window(1), "a block");
  const int64_t height = checked_mul(g.block_h + 16, window(0), "a block");
  const int64_t pixel = checked_mul(g.in_channels + g.out_channels + 64, 8, "a block");
  const int64_t block = checked_mul(checked_mul(width, height, "a block"), pixel, "a block");
  // Some algorithms copy the channels of all groups, and each thread its own block.
  checked_mul(checked_mul(block, g.groups, "a block"), kMaxThreads, "a block");
  int64_t packed = checked_mul(checked_mul(g.kernel_h + 16, g.kernel_w + 16, "the weight"), 4, "the weight");
  packed =
      checked_mul(checked_mul(packed, g.in_channels + 64, "the weight"), g.out_channels + 64, "the weight");
  checked_mul(checked_mul(packed, g.groups, "the weight"), g.parts, "the weight");
  checked_mul(checked_mul(g.batch, g.groups, "the tasks"),
              checked_mul(r.out_size[0], r.out_size[1], "the tasks"), "the tasks");

  kernel_ = &find_kernel(runnable_isa(r.isa), r);
  check_compute(g.dtype, kernel_->compute);
  g.bf16_units = kernel_->compute == Compute::bf16;
  if (empty()) return;  // nothing to compute; kernels need not know such cases
  const char* refusal = kernel_->refuses(g);
  require(refusal == nullptr, refusal == nullptr ? "" : refusal);
  workspace_bytes_ = kernel_->workspace(g);
  require(workspace_bytes_ <= kMaxWorkspace, "these blocks need more than 1 GiB of scratch memory");
}

bool Conv2dPlan::empty() const {
  const Conv2dGeometry& g = geometry_;
  return g.batch == 0 || g.out_channels == 0 || g.out_height == 0 || g.out_width == 0;
}

void Conv2dPlan::run(const Conv2dPointers& p) const {
  const Conv2dGeometry& g = geometry_;
  if (empty()) return;
  const bool inputs = g.in_channels == 0 || (p.x != nullptr && p.weight != nullptr);
  require(inputs && p.y != nullptr, "x, weight and y must not be null");
  require((p.preact != nullptr) == g.keep_preact, "preact must be given exactly where keep_preact is set");
  require((p.bias != nullptr) == g.has_bias, "bias must be given exactly where bias_dtype is");
  require((p.residual != nullptr) == g.has_residual,
          "residual must be given exactly where residual_dtype is");
  kernel_->run(g, p, workspace(workspace_bytes_));
}

size_t Conv2dPlan::packed_bytes() const {
  return geometry_.frozen && !empty() ? kernel_->packed_bytes(geometry_) : 0;
}

void Conv2dPlan::pack(const void* weight, void* packed) const {
  require(geometry_.frozen, "only a frozen weight is packed beforehand");
  if (packed_bytes() == 0) return;
  require(weight != nullptr && packed != nullptr, "weight and packed must not be null");
  prefer_huge_pages(packed, packed_bytes());
  kernel_->pack(geometry_, weight, packed);
}

}  // namespace tilewright
