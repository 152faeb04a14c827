// tilewright._emulator: the plans of tilewright._C's CUDA half, which here run their kernels on the host, and
// what controls the emulator. Built for tests only.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda/bindings.h"
#include "emulator/control.h"

namespace py = pybind11;

namespace tilewright::emulator {

namespace {

Completion completion_of(const std::string& name) {
  if (name == "deferred") return Completion::deferred;
  if (name == "eager") return Completion::eager;
  if (name == "random") return Completion::random;
  throw std::invalid_argument("completion is '" + name + "'; expected deferred, eager or random");
}

Use use_of(const std::string& name) {
  if (name == "input") return Use::input;
  if (name == "output") return Use::output;
  if (name == "in_out") return Use::in_out;
  throw std::invalid_argument("use is '" + name + "'; expected input, output or in_out");
}

void configure(uint64_t seed, const std::string& completion, bool checks, bool bank_conflicts) {
  set_options({seed, completion_of(completion), checks, bank_conflicts});
}

py::list reports() {
  py::list found;
  for (const Report& report : take_reports()) {
    py::dict row;
    row["kind"] = name(report.kind);
    row["kernel"] = report.kernel;
    row["block"] = py::make_tuple(report.block[0], report.block[1], report.block[2]);
    row["thread"] = report.thread;
    row["where"] = report.where;
    row["text"] = report.text;
    row["occurrences"] = report.occurrences;
    found.append(row);
  }
  return found;
}

py::dict counted() {
  const Counters now = counters();
  py::dict found, errors;
  for (int kind = 0; kind < kKinds; ++kind) errors[name(static_cast<Kind>(kind))] = now.errors[kind];
  found["errors"] = errors;
  found["launches"] = now.launches;
  found["blocks"] = now.blocks;
  found["switches"] = now.switches;
  found["slot_overflows"] = now.slot_overflows;
  found["ldmatrix_conflicts"] = now.ldmatrix_conflicts;
  found["stmatrix_conflicts"] = now.stmatrix_conflicts;
  found["copy_conflicts"] = now.copy_conflicts;
  found["vector_conflicts"] = now.vector_conflicts;
  found["scalar_conflicts"] = now.scalar_conflicts;
  found["mma"] = now.mma;
  return found;
}

void register_address(uintptr_t address, size_t bytes, const std::string& use, const std::string& name) {
  register_buffer(reinterpret_cast<const void*>(address), bytes, use_of(use), name);
}

py::list instances() {
  py::list rows;
  cuda::append_instances(rows);
  return rows;
}

}  // namespace

}  // namespace tilewright::emulator

PYBIND11_MODULE(_emulator, module) {
  using namespace tilewright;
  using namespace pybind11::literals;
  module.doc() = "The CUDA kernels, run on the host by an emulator that checks them. For tests.";
  module.def("instances", emulator::instances, "Every CUDA instance, as in tilewright._C.");
  cuda::add_plans(module);
  module.def("configure", emulator::configure, py::kw_only(), "seed"_a = 0, "completion"_a = "deferred",
             "checks"_a = true, "bank_conflicts"_a = false,
             "How kernels are run. seed: 0 runs blocks and warps in their natural order, others shuffle it. "
             "completion: when asynchronous copies arrive (deferred, eager, random).");
  module.def("register_buffer", emulator::register_address, "address"_a, "bytes"_a, "use"_a, "name"_a,
             "Global memory that kernels may touch, as input, output or in_out; nothing else is.");
  module.def("unregister_all_buffers", emulator::unregister_all_buffers);
  module.def("take_reports", emulator::reports, "What was found since the last call, as a list of dicts.");
  module.def("counters", emulator::counted, "What was counted since the last reset().");
  module.def("reset", emulator::reset, "Forgets counters and reports.");
}
