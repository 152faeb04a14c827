// What this extension was made of: tools/hash_sources.py writes the definition during the build.
#pragma once

namespace tilewright {

extern const char* const kSourceHash;
extern const char* const kCudaSourceHash;  // of the CUDA kernels alone; only where they are built

}  // namespace tilewright
