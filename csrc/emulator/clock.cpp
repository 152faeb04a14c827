#include "emulator/clock.h"

#include <algorithm>

#include "emulator/report.h"

namespace tilewright::emulator {

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
