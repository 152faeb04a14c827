// Division by a number that the host knows and the kernel does not: a multiplication and a shift.
#pragma once

#include <cstdint>

#include "cuda/platform.cuh"

namespace tilewright::cuda {

// Quotients of dividends 0 to 2^31 - 1 by a divisor of 1 to 2^31 - 1. With L = ceil(log2 d) and
// m = ceil(2^(31 + L) / d) < 2^32, floor(n·m / 2^(31 + L)) = floor(n / d) for n < 2^31: the error n·(m·d -
// 2^(31 + L)) / (d·2^(31 + L)) is below 1/d, since m·d - 2^(31 + L) < d <= 2^L.
class FastDivisor {
 public:
  FastDivisor() = default;

  explicit FastDivisor(int64_t divisor) : divisor_(static_cast<uint32_t>(divisor)) {
    while ((int64_t{1} << log_) < divisor) ++log_;
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << (31 + log_)) + divisor - 1) / divisor);
    if (divisor == 1) multiplier_ = 0;
  }

  TILEWRIGHT_DEVICE uint32_t divide(uint32_t n) const {
    if (multiplier_ == 0) return n;
    return static_cast<uint32_t>((static_cast<uint64_t>(n) * multiplier_) >> 32) >> (log_ - 1);
  }

  TILEWRIGHT_DEVICE uint32_t remainder(uint32_t n, uint32_t quotient) const {
    return n - quotient * divisor_;
  }

 private:
  uint32_t divisor_ = 1, multiplier_ = 0;
  int log_ = 0;
};

}  // namespace tilewright::cuda
