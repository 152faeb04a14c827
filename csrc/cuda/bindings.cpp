// What Python sees of the CUDA kernels: rows that say what was compiled, and a plan for each operation, which
// is an instance with everything fixed but the pointers. Compiled into tilewright._C where CUDA is on, and
// into the emulator's module.
#include "cuda/bindings.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <span>
#include <string>

#include "conv2d/cuda/conv2d.h"
#include "cuda/arguments.h"
#include "cuda/device.h"
#include "cuda/error.h"
#include "matmul/cuda/matmul.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace tilewright::cuda {

namespace {

constexpr const char* kRunAbout =
    "Starts the kernel on the stream. Addresses are integers, 0 where there is no such operand. Makes the "
    "device the "
    "runtime's current one. Releases the GIL. Raises tilewright.DeviceError.";

const char* name_of(DataType type) {
  return type == DataType::f32 ? "f32" : type == DataType::bf16 ? "bf16" : "f16";
}

// The fields that instances of every operation have. `index` is what a plan takes.
template <class Instance>
py::dict row_of(const char* operation, size_t index, const Instance& instance) {
  py::dict row;
  row["operation"] = operation;
  row["backend"] = "cuda";
  row["index"] = index;
  row["algorithm"] = instance.algorithm;
  row["capability"] = instance.capability;
  row["exact_architecture"] = instance.exact_architecture;
  row["dtypes"] = py::make_tuple(name_of(instance.dtype));
  row["tf32"] = instance.tf32;
  row["block_m"] = instance.block_m;
  row["block_n"] = instance.block_n;
  row["block_k"] = instance.block_k;
  row["num_warps"] = instance.num_warps;
  row["num_stages"] = instance.num_stages;
  row["cluster"] = instance.cluster;
  row["threads"] = instance.threads;
  row["shared_bytes"] = instance.shared_bytes;
  return row;
}

[[noreturn]] void raise_device_error(const std::string& text) {
  py::set_error(py::module_::import("tilewright.errors").attr("DeviceError"), text.c_str());
  throw py::error_already_set();
}

size_t scratch_bytes(const MatmulInstance& instance, const MatmulArguments& arguments) {
  return instance.workspace(arguments);
}

size_t scratch_bytes(const Conv2dInstance& instance, const Conv2dArguments& arguments) {
  return instance.workspace_bytes(arguments);
}

void* pointer(uintptr_t address) {
  return reinterpret_cast<void*>(address);
}

// An instance and its arguments. What Python does not say of the arguments is filled in at each run.
template <class Instance, class Arguments>
class Plan {
 public:
  Plan(std::span<const Instance> instances, Keywords& keywords, Arguments (*read)(Keywords&)) {
    const int64_t index = keywords.size("instance");
    if (index >= static_cast<int64_t>(instances.size())) {
      throw std::invalid_argument("instance is " + std::to_string(index) + "; this build has " +
                                  std::to_string(instances.size()));
    }
    instance_ = &instances[index];
    label_ = keywords.take<std::string>("label");
    arguments_ = read(keywords);
    keywords.finish();
    refusal_ = instance_->refuses(arguments_);
  }

  std::optional<std::string> refusal() const {
    return refusal_ == nullptr ? std::nullopt : std::optional<std::string>(refusal_);
  }

  size_t workspace_bytes() const {
    return refusal_ == nullptr ? scratch_bytes(*instance_, arguments_) : 0;
  }

  const Arguments& arguments() const {
    return arguments_;
  }

  // Launches on the device's stream, and waits for nothing.
  void launch(const Arguments& arguments, int device, uintptr_t stream) const {
    std::string failure;
    if (refusal_ != nullptr) {
      failure = refusal_;
    } else {
      const py::gil_scoped_release release;
      try {
        use_device(device);
        instance_->launch(arguments, static_cast<Stream>(pointer(stream)));
      } catch (const Error& error) {
        failure = error.what();
      }
    }
    if (!failure.empty()) raise_device_error(label_ + ": " + failure);
  }

 private:
  const Instance* instance_;
  Arguments arguments_;
  std::string label_;  // operation, backend, config and problem, for errors
  const char* refusal_;
};

using MatmulPlan = Plan<MatmulInstance, MatmulArguments>;
using Conv2dPlan = Plan<Conv2dInstance, Conv2dArguments>;

MatmulArguments read_matmul(Keywords& keywords) {
  using Strides = std::array<int64_t, 4>;
  MatmulArguments found;
  found.m = keywords.size("m");
  found.n = keywords.size("n");
  found.k = keywords.size("k");
  const auto batch = keywords.take<std::array<int64_t, 2>>("batch");
  std::copy(batch.begin(), batch.end(), found.batch);
  const Strides a = keywords.take<Strides>("a_strides");
  const Strides b = keywords.take<Strides>("b_strides");
  std::copy(a.begin(), a.end(), found.a_strides);
  std::copy(b.begin(), b.end(), found.b_strides);
  Epilogue& epilogue = found.epilogue;
  const Strides y = keywords.take<Strides>("y_strides");
  const Strides residual = keywords.take<std::optional<Strides>>("residual_strides").value_or(Strides{});
  std::copy(y.begin(), y.end(), epilogue.y_strides);
  std::copy(residual.begin(), residual.end(), epilogue.residual_strides);
  epilogue.bias_strides[2] = keywords.take<int64_t>("bias_stride");
  epilogue.y_type = keywords.type("out_dtype");
  epilogue.bias_type = keywords.type("bias_dtype");
  epilogue.residual_type = keywords.type("residual_dtype");
  epilogue.activation = keywords.activation("activation");
  found.alignment = keywords.take<int>("alignment");
  found.group_m = keywords.take<int>("group_m");
  found.split_k = keywords.take<int>("split_k");
  return found;
}

void run_matmul(const MatmulPlan& plan, uintptr_t a, uintptr_t b, uintptr_t y, uintptr_t preact,
                uintptr_t bias, uintptr_t residual, uintptr_t workspace, int device, uintptr_t stream) {
  MatmulArguments arguments = plan.arguments();
  arguments.a = pointer(a);
  arguments.b = pointer(b);
  arguments.epilogue.y = pointer(y);
  arguments.epilogue.preact = pointer(preact);
  arguments.epilogue.bias = pointer(bias);
  arguments.epilogue.residual = pointer(residual);
  arguments.workspace = pointer(workspace);
  plan.launch(arguments, device, stream);
}

Conv2dArguments read_conv2d(Keywords& keywords) {
  Conv2dArguments found{};
  found.batch = keywords.size("batch");
  found.groups = keywords.size("groups");
  found.in_channels = keywords.size("in_channels");
  found.out_channels = keywords.size("out_channels");
  using Pair = std::array<int64_t, 2>;
  using Strides = std::array<int64_t, 4>;
  const auto [height, width] = keywords.take<Pair>("size");
  const auto [out_height, out_width] = keywords.take<Pair>("out_size");
  const auto [kernel_h, kernel_w] = keywords.take<Pair>("kernel");
  const auto [stride_h, stride_w] = keywords.take<Pair>("stride");
  const auto [dilation_h, dilation_w] = keywords.take<Pair>("dilation");
  const auto [top, left] = keywords.take<Pair>("padding");
  const Strides x = keywords.take<Strides>("x_strides");
  const Strides weight = keywords.take<Strides>("weight_strides");
  const Strides y = keywords.take<Strides>("y_strides");
  const Strides residual = keywords.take<std::optional<Strides>>("residual_strides").value_or(Strides{});
  found.height = height, found.width = width;
  found.out_height = out_height, found.out_width = out_width;
  found.kernel_h = kernel_h, found.kernel_w = kernel_w;
  found.stride_h = stride_h, found.stride_w = stride_w;
  found.dilation_h = dilation_h, found.dilation_w = dilation_w;
  found.top = top, found.left = left;
  found.x_n = x[0], found.x_c = x[1], found.x_h = x[2], found.x_w = x[3];
  found.weight_k = weight[0], found.weight_c = weight[1], found.weight_r = weight[2],
  found.weight_s = weight[3];
  found.y_n = y[0], found.y_k = y[1], found.y_h = y[2], found.y_w = y[3];
  found.residual_n = residual[0], found.residual_k = residual[1];
  found.residual_h = residual[2], found.residual_w = residual[3];
  found.bias_stride = keywords.take<int64_t>("bias_stride");
  found.dtype = keywords.type("dtype");
  found.bias_type = keywords.type("bias_dtype");
  found.residual_type = keywords.type("residual_dtype");
  found.activation = keywords.activation("activation");
  found.alignment = keywords.take<int>("alignment");
  found.group_m = keywords.take<int>("group_m");
  found.split_k = keywords.take<int>("split_k");
  found.stage_x = keywords.take<bool>("stage_x");
  return found;
}

void run_conv2d(const Conv2dPlan& plan, uintptr_t x, uintptr_t weight, uintptr_t y, uintptr_t preact,
                uintptr_t bias, uintptr_t residual, uintptr_t workspace, int device, uintptr_t stream) {
  Conv2dArguments arguments = plan.arguments();
  arguments.x = pointer(x);
  arguments.weight = pointer(weight);
  arguments.y = pointer(y);
  arguments.preact = pointer(preact);
  arguments.bias = pointer(bias);
  arguments.residual = pointer(residual);
  arguments.workspace = pointer(workspace);
  plan.launch(arguments, device, stream);
}

template <class Plan>
py::class_<Plan> plan_class(py::module_& module, const char* name, const char* about) {
  // Local to the module: _C and the emulator's module may both be loaded.
  return py::class_<Plan>(module, name, py::module_local(), about)
      .def_property_readonly("refusal", &Plan::refusal,
                             "Why the instance cannot compute this, None if it can.")
      .def_property_readonly("workspace_bytes", &Plan::workspace_bytes,
                             "Bytes of scratch memory, 16-byte aligned, that `run` takes.");
}

}  // namespace

void append_instances(py::list& rows) {
  size_t index = 0;
  for (const MatmulInstance& instance : matmul_instances()) {
    py::dict row = row_of("matmul", index++, instance);
    row["a_layout"] = instance.a_layout == MatrixLayout::row ? "row" : "col";
    row["b_layout"] = instance.b_layout == MatrixLayout::row ? "row" : "col";
    row["copy_bytes"] = static_cast<int>(instance.copy);
    rows.append(row);
  }
  index = 0;
  for (const Conv2dInstance& instance : conv2d_instances()) rows.append(row_of("conv2d", index++, instance));
}

void add_plans(py::module_& module) {
  plan_class<MatmulPlan>(
      module, "CudaMatmulPlan",
      "y = act(A·B + bias + residual) by one instance, with its geometry fixed. Field names as in "
      "matmul/cuda/matmul.h; strides for (batch 0, batch 1, row, column).")
      .def(py::init([](const py::kwargs& fields) {
        Keywords keywords(fields);
        return MatmulPlan(matmul_instances(), keywords, read_matmul);
      }))
      .def("run", run_matmul, "a_ptr"_a, "b_ptr"_a, "y_ptr"_a, "preact_ptr"_a, "bias_ptr"_a, "residual_ptr"_a,
           "workspace_ptr"_a, "device_index"_a, "stream"_a, kRunAbout);
  plan_class<Conv2dPlan>(
      module, "CudaConv2dPlan",
      "y = act(conv2d(x, w) + bias + residual) by one instance, with its geometry fixed. Field "
      "names as in conv2d/cuda/conv2d.h.")
      .def(py::init([](const py::kwargs& fields) {
        Keywords keywords(fields);
        return Conv2dPlan(conv2d_instances(), keywords, read_conv2d);
      }))
      .def("run", run_conv2d, "x_ptr"_a, "weight_ptr"_a, "y_ptr"_a, "preact_ptr"_a, "bias_ptr"_a,
           "residual_ptr"_a, "workspace_ptr"_a, "device_index"_a, "stream"_a, kRunAbout);
}

}  // namespace tilewright::cuda
