// What wgmma multiplies.
#pragma once

namespace tilewright::emulator {

enum class Operand : int { bf16, f16, tf32 };

}  // namespace tilewright::emulator
