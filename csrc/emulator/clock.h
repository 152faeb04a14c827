// Vector clocks: what each thread, and each asynchronous agent, knows to have happened.
//
// The threads of the resident blocks and the agents that copy or multiply on their behalf share one space of
// ids. Component i of a clock is the last epoch of i that its owner is ordered after; a thread's own
// component is its current epoch, which advances whenever it releases (arrives at a barrier, ...).
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace tilewright::emulator {

using Id = uint32_t;
using Epoch = uint32_t;

inline constexpr Id kMaxIds = 1u << 13;  // what a shadow slot can name
inline constexpr Epoch kMaxEpoch = (1u << 24) - 1;

// A clock by itself: of a barrier, of a phase, of an operation in flight.
class Clock {
 public:
  Epoch* data() {
    return epochs_.data();
  }
  const Epoch* data() const {
    return epochs_.data();
  }
  bool empty() const {
    return epochs_.empty();
  }
  void resize(size_t width) {
    epochs_.resize(width, 0);
  }
  size_t width() const {
    return epochs_.size();
  }
  void clear() {
    epochs_.clear();
  }

 private:
  std::vector<Epoch> epochs_;
};

// into[i] = max(into[i], from[i]): what a thousand threads know, at every arrival.
void join(Epoch* into, const Epoch* from, size_t width);

// The clocks of all threads of the resident blocks, a row each.
class ClockSpace {
 public:
  void reset(size_t threads, size_t capacity);

  Epoch* row(Id thread) {
    return rows_.data() + thread * stride_;
  }
  size_t width() const {
    return width_;
  }  // ids in use: threads, then agents
  size_t capacity() const {
    return stride_;
  }

  // An id for an asynchronous agent. All rows have room for it already.
  Id new_agent();

  // `clock` gets as wide as the space is now; what it did not know, it is not ordered after.
  void widen(Clock& clock) const {
    if (clock.width() < width_) clock.resize(width_);
  }
  void join_into(Clock& clock, Id thread) {
    widen(clock);
    join(clock.data(), row(thread), width_);
  }
  void acquire(Id thread, const Clock& clock) {
    join(row(thread), clock.data(), clock.width());
  }

 private:
  std::vector<Epoch> rows_;
  size_t threads_ = 0;
  size_t stride_ = 0;
  size_t width_ = 0;
};

}  // namespace tilewright::emulator
