// The CUDA kernels for Python, in tilewright._C and in the emulator's module alike.
#pragma once

#include <pybind11/pybind11.h>

namespace tilewright::cuda {

// A row for each instance of this build: what it is, and the fields of its config.
void append_instances(pybind11::list& rows);

// Adds CudaMatmulPlan and CudaConv2dPlan.
void add_plans(pybind11::module_& module);

}  // namespace tilewright::cuda
