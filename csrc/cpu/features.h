// Which instruction sets this processor, its operating system and this build have.
#pragma once

#include <string>
#include <vector>

namespace tilewright {

// Vector features of the processor that the operating system also saves ("avx2", "avx512bf16" …).
std::vector<std::string> cpu_features();

bool machine_has(const std::string& feature);

// True where code of the level ("portable", "avx2", "avx512") can run here, whether or not it was built.
bool machine_supports(const std::string& isa);

// The processor's name as it gives it, or "".
std::string cpu_model();

}  // namespace tilewright
