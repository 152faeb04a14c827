#include "emulator/clock.h"

#include <algorithm>

#include "emulator/report.h"

namespace tilewright::emulator {

#if defined(__x86_64__)
__attribute__((target_clones("avx2", "default"), optimize("O3")))
#endif
void join(Epoch* __restrict__ into, const Epoch* __restrict__ from, size_t width) {
  for (size_t i = 0; i < width; ++i) into[i] = into[i] < from[i] ? from[i] : into[i];
}

void ClockSpace::reset(size_t threads, size_t capacity) {
  threads_ = threads;
  stride_ = capacity;
  rows_.resize(threads_ * stride_);
  // Beyond the ids that were in use all is zero still, unless the rows moved.
  std::fill(rows_.begin(), rows_.end(), 0);
  width_ = threads_;
  for (size_t t = 0; t < threads_; ++t) row(static_cast<Id>(t))[t] = 1;
}

Id ClockSpace::new_agent() {
  if (width_ == stride_) {
    fail(Kind::launch, nullptr, "more asynchronous agents than the race detector has room for");
  }
  return static_cast<Id>(width_++);
}

}  // namespace tilewright::emulator
