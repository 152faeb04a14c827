// Which GPU a launch goes to. Needs no CUDA header.
#pragma once

namespace tilewright::cuda {

// Makes `index` this thread's device. Throws Error if it cannot be used. Who calls sees to it that the device
// was current before, or is made so again: torch's runtime and this module's are two copies that share the
// driver's current context, and only the former knows what its user expects.
void use_device(int index);

}  // namespace tilewright::cuda
