// What the CUDA half throws: an error of the driver or the runtime, or a refusal before a launch. The
// bindings add kernel, config and problem, and raise tilewright.DeviceError.
#pragma once

#include <stdexcept>

namespace tilewright::cuda {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace tilewright::cuda
