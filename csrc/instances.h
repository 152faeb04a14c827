// How kernels are listed: one table per instruction set, from which bindings, tests and configs read what
// exists.
#pragma once

#include "conv2d/cpu/conv2d.h"
#include "cpu/probe.h"
#include "matmul/cpu/matmul.h"

namespace tilewright {

// An ISA level's kernels, as constant data: it is read on processors that lack the level, where calling even
// a small function of its objects could be an illegal instruction.
struct IsaKernels {
  const char* isa;
  int lanes;                 // fp32 lanes of a vector
  const MatmulKernel* gemm;  // each list ends with a null algorithm
  const MatmulKernel* gemv;
  const Conv2dKernel* conv2d[5];
  const Probe* probe;
};

namespace portable {
extern const IsaKernels kKernels;
}
namespace avx2 {
extern const IsaKernels kKernels;
}
namespace avx512 {
extern const IsaKernels kKernels;
}

// The levels that were compiled, lowest first.
inline constexpr const IsaKernels* kIsaLevels[] = {
    &portable::kKernels,
#if defined(TILEWRIGHT_X86_LEVELS)
    &avx2::kKernels,
    &avx512::kKernels,
#endif
};

}  // namespace tilewright
