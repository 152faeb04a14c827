#include "cpu/features.h"

#include <algorithm>
#include <fstream>

namespace tilewright {

#if defined(__x86_64__)

// __builtin_cpu_supports asks CPUID and, for AVX and AVX-512, XGETBV: state that the OS does not save counts
// as absent. Its argument must be a literal.
#define TW_FEATURES(X) \
  X("sse4.2")          \
  X("avx")             \
  X("avx2")            \
  X("fma")             \
  X("f16c")            \
  X("avx512f")         \
  X("avx512bw")        \
  X("avx512dq")        \
  X("avx512vl")        \
  X("avx512vnni")      \
  X("avx512bf16")

std::vector<std::string> cpu_features() {
  __builtin_cpu_init();
  std::vector<std::string> found;
#define TW_ADD(name) \
  if (__builtin_cpu_supports(name)) found.emplace_back(name);
  TW_FEATURES(TW_ADD)
#undef TW_ADD
  return found;
}

bool machine_supports(const std::string& isa) {
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == "avx2") return avx2;
  if (isa == "avx512") {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return isa == "portable";
}

#else

std::vector<std::string> cpu_features() {
  return {};
}

bool machine_supports(const std::string& isa) {
  return isa == "portable";
}

#endif

bool machine_has(const std::string& feature) {
  static const std::vector<std::string> features = cpu_features();
  return std::find(features.begin(), features.end(), feature) != features.end();
}

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

}  // namespace tilewright
