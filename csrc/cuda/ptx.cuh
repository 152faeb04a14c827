// Everything that C++ cannot say: the only headers with inline PTX. Each has a twin of the same name under
// emulator/ptx/, with the same functions, that g++ compiles in its place. Here are those that every GPU since
// sm_80 has; Hopper's (barrier, cluster, tma, wgmma) are included by name.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/sync.cuh"
