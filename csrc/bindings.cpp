// tilewright._C: the compiled kernels for Python (those for GPUs: cuda/bindings.cpp). Knows no torch:
// pointers come as integers, and whoever calls keeps the memory alive and of the extent that the strides say.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "conv2d/cpu/plan.h"
#include "cpu/features.h"
#include "cpu/fingerprint.h"
#include "cpu/threads.h"
#include "instances.h"
#include "matmul/cpu/plan.h"
#include "source_hash.h"
#if TILEWRIGHT_HAS_CUDA
#include "cuda/bindings.h"
#endif

namespace py = pybind11;

namespace tilewright {

namespace {

py::dict build_info() {
  py::list levels;
  for (const IsaKernels* level : kIsaLevels) levels.append(level->isa);
  py::dict info;
  info["compiler"] = TILEWRIGHT_COMPILER;
  info["build_type"] = TILEWRIGHT_BUILD_TYPE;
  info["source_hash"] = kSourceHash;
  info["sanitize"] = static_cast<bool>(TILEWRIGHT_SANITIZE);
  info["openmp"] = built_with_openmp();
  info["cuda"] = static_cast<bool>(TILEWRIGHT_HAS_CUDA);
  info["cuda_absent"] = TILEWRIGHT_CUDA_ABSENT;
  info["cuda_archs"] = py::list();
#if TILEWRIGHT_HAS_CUDA
  info["cuda_archs"] = py::str(TILEWRIGHT_CUDA_BUILT_FOR).attr("split")();
  info["cuda_compiler"] = "nvcc " TILEWRIGHT_NVCC_VERSION;
  info["cuda_source_hash"] = kCudaSourceHash;
#endif
  info["isa_levels"] = levels;
  return info;
}

py::dict cpu_info() {
  py::list levels;
  for (const IsaKernels* level : kIsaLevels) {
    if (machine_supports(level->isa)) levels.append(level->isa);
  }
  py::dict info;
  info["model"] = cpu_model();
  info["isa_levels"] = levels;
  info["features"] = cpu_features();
  return info;
}

template <class Kernel>
py::dict instance(const char* operation, const IsaKernels& level, const Kernel& kernel) {
  py::dict row;
  row["operation"] = operation;
  row["backend"] = "cpu";
  row["isa"] = level.isa;
  row["algorithm"] = kernel.algorithm;
  row["compute"] = kernel.compute == Compute::bf16 ? "bf16" : "f32";
  if (kernel.compute == Compute::bf16) {
    row["dtypes"] = py::make_tuple("bf16");
  } else {
    row["dtypes"] = py::make_tuple("f32", "bf16", "f16");
  }
  return row;
}

py::list instances() {
  py::list found;
  for (const IsaKernels* level : kIsaLevels) {
    for (const MatmulKernel* list : {level->gemm, level->gemv}) {
      for (const MatmulKernel* kernel = list; kernel->algorithm != nullptr; ++kernel) {
        py::dict row = instance("matmul", *level, *kernel);
        row["tile_m"] = kernel->tile_m;
        row["tile_n"] = kernel->tile_n;
        found.append(row);
      }
    }
    for (const Conv2dKernel* list : level->conv2d) {
      for (const Conv2dKernel* kernel = list; kernel->algorithm != nullptr; ++kernel) {
        found.append(instance("conv2d", *level, *kernel));
      }
    }
  }
#if TILEWRIGHT_HAS_CUDA
  cuda::append_instances(found);
#endif
  return found;
}

const IsaKernels& level_here(const std::string& isa) {
  for (const IsaKernels* level : kIsaLevels) {
    if (isa == level->isa && machine_supports(isa)) return *level;
  }
  throw std::invalid_argument("isa '" + isa + "' is not built or not supported by this processor");
}

void check_probe(int threads, double seconds) {
  if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must be 1 to 1024");
  if (!(seconds >= 0 && seconds <= 60)) throw std::invalid_argument("seconds must be 0 to 60");
}

double peak_flops_py(const std::string& isa, const std::string& dtype, int threads, double seconds) {
  check_probe(threads, seconds);
  if (dtype != "f32" && dtype != "bf16" && dtype != "f16") {
    throw std::invalid_argument("dtype_name is '" + dtype + "'; expected f32, bf16 or f16");
  }
  const IsaKernels& level = level_here(isa);
  bool bf16_units = false;
  if (dtype == "bf16" && level.probe->multiply_bf16 != nullptr) {
    for (const std::string& feature : cpu_features()) bf16_units = bf16_units || feature == "avx512bf16";
  }
  const py::gil_scoped_release release;
  return peak_flops(level, bf16_units, threads, seconds);
}

double read_bandwidth_py(int threads, size_t bytes, double seconds) {
  check_probe(threads, seconds);
  if (bytes < 4096 || bytes > size_t{1} << 36) throw std::invalid_argument("bytes must be 4096 to 2^36");
  const IsaKernels* best = kIsaLevels[0];
  for (const IsaKernels* level : kIsaLevels) {
    if (machine_supports(level->isa)) best = level;
  }
  const py::gil_scoped_release release;
  return read_bandwidth(*best, threads, bytes, seconds);
}

int team_size(int threads) {
  check_probe(threads, 0);
  const py::gil_scoped_release release;
  int size = 0;
  parallel(
      threads,
      [](void* context, int thread, int team) {
        if (thread == 0) *static_cast<int*>(context) = team;
      },
      &size);
  return size;
}

uint64_t digest_py(uintptr_t address, size_t bytes, int threads) {
  check_probe(threads, 0);
  const py::gil_scoped_release release;
  return digest(reinterpret_cast<const void*>(address), bytes, threads);
}

// Keeps the GIL: it takes less time than letting go of it.
uint64_t sample_py(uintptr_t address, size_t bytes, size_t count) {
  if (count < 2) throw std::invalid_argument("count must be 2 or more");
  return sample(reinterpret_cast<const void*>(address), bytes, count);
}

void run_conv2d(const Conv2dPlan& plan, uintptr_t x, uintptr_t weight, uintptr_t y, uintptr_t preact,
                uintptr_t bias, uintptr_t residual) {
  const Conv2dPointers pointers = {
      reinterpret_cast<const void*>(x),    reinterpret_cast<const void*>(weight),
      reinterpret_cast<void*>(y),          reinterpret_cast<void*>(preact),
      reinterpret_cast<const void*>(bias), reinterpret_cast<const void*>(residual)};
  const py::gil_scoped_release release;
  plan.run(pointers);
}

template <class Plan>
void pack_plan(const Plan& plan, uintptr_t from, uintptr_t packed) {
  const py::gil_scoped_release release;
  plan.pack(reinterpret_cast<const void*>(from), reinterpret_cast<void*>(packed));
}

void run_matmul(const MatmulPlan& plan, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t preact,
                uintptr_t bias, uintptr_t residual) {
  const MatmulPointers pointers = {
      reinterpret_cast<const void*>(a),    reinterpret_cast<const void*>(b),
      reinterpret_cast<void*>(c),          reinterpret_cast<void*>(preact),
      reinterpret_cast<const void*>(bias), reinterpret_cast<const void*>(residual)};
  const py::gil_scoped_release release;
  plan.run(pointers);
}

}  // namespace

}  // namespace tilewright

PYBIND11_MODULE(_C, module) {
  using namespace tilewright;
  using namespace pybind11::literals;
  module.doc() =
      "tilewright's compiled kernels. Takes addresses and strides; tilewright's Python checks them.";
  module.attr("__version__") = TILEWRIGHT_VERSION;
  module.def("build_info", build_info, "How this module was built.");
  module.def("cpu_info", cpu_info,
             "The processor's name, its vector features, and the ISA levels usable here.");
  module.def("instances", instances, "Every compiled kernel, as a list of dicts.");
  module.def(
      "peak_flops", peak_flops_py, "isa"_a, "dtype_name"_a, "threads"_a, "seconds"_a,
      "Best FLOP/s of multiply-adds in registers. bf16 uses the processor's bf16 dot products where the "
      "level is avx512 and it has them; f16 (and bf16 elsewhere) is computed, and measured, in fp32.");
  module.def("read_bandwidth", read_bandwidth_py, "threads"_a, "bytes"_a, "seconds"_a,
             "Best bytes per second of threads reading a buffer of this many bytes.");
  module.def("team_size", team_size, "threads"_a,
             "Size of the team that a launch with `threads` threads gets.");
  module.def("digest", digest_py, "address"_a, "bytes"_a, "threads"_a,
             "A hash of memory that differs whenever one 8-byte word does.");
  module.def("sample", sample_py, "address"_a, "bytes"_a, "count"_a,
             "The same of `count` words spread evenly over the memory.");

  py::class_<MatmulPlan>(
      module, "MatmulPlan",
      "y = act(A·B + bias + residual) with its geometry, tiles and ISA level checked once. "
      "Field names as in tilewright.kernels.matmul.problem.MatmulProblem.")
      .def(py::init(
               [](std::string isa, std::string algorithm, int64_t m, int64_t n, int64_t k,
                  std::vector<int64_t> batch, std::vector<int64_t> a_strides, std::vector<int64_t> b_strides,
                  int64_t bias_stride, std::optional<std::vector<int64_t>> residual_strides,
                  std::string dtype, std::string out_dtype, std::optional<std::string> bias_dtype,
                  std::optional<std::string> residual_dtype, std::string activation, bool keep_preact,
                  std::string compute, std::string pack_b, int64_t block_m, int64_t block_n, int64_t block_k,
                  int tile_m, int tile_n, int64_t parts_m, int64_t parts_n, int64_t prefetch, int threads) {
                 return MatmulPlan({isa,         algorithm,
                                    m,           n,
                                    k,           batch,
                                    a_strides,   b_strides,
                                    bias_stride, residual_strides,
                                    dtype,       out_dtype,
                                    bias_dtype,  residual_dtype,
                                    activation,  keep_preact,
                                    compute,     pack_b,
                                    block_m,     block_n,
                                    block_k,     tile_m,
                                    tile_n,      parts_m,
                                    parts_n,     prefetch,
                                    threads});
               }),
           py::kw_only(), "isa"_a, "algorithm"_a, "m"_a, "n"_a, "k"_a, "batch"_a, "a_strides"_a,
           "b_strides"_a, "bias_stride"_a, "residual_strides"_a, "dtype"_a, "out_dtype"_a, "bias_dtype"_a,
           "residual_dtype"_a, "activation"_a, "keep_preact"_a, "compute"_a, "pack_b"_a, "block_m"_a,
           "block_n"_a, "block_k"_a, "tile_m"_a, "tile_n"_a, "parts_m"_a, "parts_n"_a, "prefetch"_a,
           "threads"_a)
      .def("run", run_matmul, "a_ptr"_a, "b_ptr"_a, "c_ptr"_a, "preact_ptr"_a, "bias_ptr"_a, "residual_ptr"_a,
           "Computes into c (and preact). Addresses are integers, 0 where there is no such operand. Releases "
           "the "
           "GIL.")
      .def("pack", pack_plan<MatmulPlan>, "b_ptr"_a, "packed_ptr"_a,
           "Where pack_b is frozen: writes B's packed form, which `run` takes in place of b.")
      .def_property_readonly("packed_bytes", &MatmulPlan::packed_bytes)
      .def_property_readonly("workspace_bytes", &MatmulPlan::workspace_bytes);

  py::class_<Conv2dPlan>(module, "Conv2dPlan",
                         "y = act(conv2d(x, w) + bias + residual) with its geometry, blocks and ISA level "
                         "checked once. Field names as in "
                         "tilewright.kernels.conv2d.problem.Conv2dProblem.")
      .def(py::init([](std::string isa, std::string algorithm, std::string compute, int64_t batch,
                       int64_t in_channels, int64_t out_channels, int64_t groups, Pair size, Pair out_size,
                       Pair kernel, Pair stride, Pair dilation, Pair padding, Strides x_strides,
                       Strides weight_strides, Strides y_strides, int64_t weight_group_stride, bool flipped,
                       int64_t bias_stride, std::optional<Strides> residual_strides, std::string dtype,
                       std::optional<std::string> bias_dtype, std::optional<std::string> residual_dtype,
                       std::string activation, bool keep_preact, int64_t block_h, int64_t block_w,
                       int64_t block_n, int64_t block_c, int64_t parts, bool frozen, int threads) {
             return Conv2dPlan({isa,
                                algorithm,
                                compute,
                                batch,
                                in_channels,
                                out_channels,
                                groups,
                                size,
                                out_size,
                                kernel,
                                stride,
                                dilation,
                                padding,
                                x_strides,
                                weight_strides,
                                y_strides,
                                weight_group_stride,
                                flipped,
                                bias_stride,
                                residual_strides,
                                dtype,
                                bias_dtype,
                                residual_dtype,
                                activation,
                                keep_preact,
                                block_h,
                                block_w,
                                block_n,
                                block_c,
                                parts,
                                frozen,
                                threads});
           }),
           py::kw_only(), "isa"_a, "algorithm"_a, "compute"_a, "batch"_a, "in_channels"_a, "out_channels"_a,
           "groups"_a, "size"_a, "out_size"_a, "kernel"_a, "stride"_a, "dilation"_a, "padding"_a,
           "x_strides"_a, "weight_strides"_a, "y_strides"_a, "weight_group_stride"_a, "flipped"_a,
           "bias_stride"_a, "residual_strides"_a, "dtype"_a, "bias_dtype"_a, "residual_dtype"_a,
           "activation"_a, "keep_preact"_a, "block_h"_a, "block_w"_a, "block_n"_a, "block_c"_a, "parts"_a,
           "frozen"_a, "threads"_a)
      .def("run", run_conv2d, "x_ptr"_a, "weight_ptr"_a, "y_ptr"_a, "preact_ptr"_a, "bias_ptr"_a,
           "residual_ptr"_a,
           "Computes into y (and preact). Addresses are integers, 0 where there is no such operand. Releases "
           "the GIL.")
      .def("pack", pack_plan<Conv2dPlan>, "weight_ptr"_a, "packed_ptr"_a,
           "Where the weight is frozen: writes its packed form, which `run` takes in place of the weight.")
      .def_property_readonly("packed_bytes", &Conv2dPlan::packed_bytes)
      .def_property_readonly("workspace_bytes", &Conv2dPlan::workspace_bytes);
#if TILEWRIGHT_HAS_CUDA
  cuda::add_plans(module);
#endif
}
