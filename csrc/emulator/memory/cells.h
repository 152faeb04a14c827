// What is remembered of each 4 bytes of memory: who accessed them since the last write, and when.
#pragma once

#include <cstdint>

#include "emulator/clock.h"
#include "emulator/memory/memory.h"

namespace tilewright::emulator {

// One access: epoch, id, which of the 4 bytes, what it did, from which line.
class Slot {
 public:
  Slot() = default;
  Slot(Epoch epoch, Id id, unsigned mask, unsigned access, uint32_t site)
      : bits_(epoch | uint64_t{id} << 24 | uint64_t{mask} << 37 | uint64_t{access} << 41 |
              uint64_t{site} << 43) {}

  Epoch epoch() const {
    return static_cast<Epoch>(bits_ & kMaxEpoch);
  }
  Id id() const {
    return static_cast<Id>(bits_ >> 24 & (kMaxIds - 1));
  }
  unsigned mask() const {
    return static_cast<unsigned>(bits_ >> 37 & 15);
  }
  unsigned access() const {
    return static_cast<unsigned>(bits_ >> 41 & 3);
  }
  uint32_t site() const {
    return static_cast<uint32_t>(bits_ >> 43);
  }
  bool writes() const {
    return (access() & kWrite) != 0;
  }
  bool before(const Epoch* clock) const {
    return clock[id()] >= epoch();
  }

 private:
  uint64_t bits_ = 0;
};

// Two accesses of which at least one writes conflict, except two atomic ones.
inline bool conflicting(unsigned a, unsigned b) {
  return ((a | b) & kWrite) != 0 && (a & b & kAtomic) == 0;
}

inline constexpr int kSharedSlots = 15;
struct alignas(128) SharedCell {
  uint32_t group = 0;  // that the rest is about: of an earlier one nothing is left
  uint8_t count = 0;
  uint8_t initialised = 0;  // bytes
  Slot slots[kSharedSlots];
};
static_assert(sizeof(SharedCell) == 128);

inline constexpr int kGlobalSlots = 5;
struct alignas(64) GlobalCell {
  uint32_t launch = 0;
  uint32_t group = 0;
  uint8_t count = 0;
  uint8_t written = 0;  // bytes, by earlier groups of this launch, and not atomically
  uint8_t read = 0;
  uint8_t added = 0;  // atomically
  Slot earlier;       // one of those
  Slot slots[kGlobalSlots];
};
static_assert(sizeof(GlobalCell) == 64);

// Places by number, so that a slot can hold one.
uint32_t site_number(Site site);
Site site_of(uint32_t number);

// Enters an access in `slots`; calls `race(slot)` for each earlier one that conflicts and is not ordered
// before it. Returns false if an access had to be forgotten to make room.
template <class Race>
inline bool enter(Slot* slots, uint8_t& count, int capacity, const Slot& now, const Epoch* clock, Race race) {
  const unsigned mask = now.mask();
  const unsigned access = now.access();
  const bool writes = now.writes();
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    const Slot slot = slots[i];
    const bool ordered = slot.before(clock);
    if (!ordered && (slot.mask() & mask) != 0 && conflicting(slot.access(), access)) race(slot);
    // Whatever races with this read and is ordered after that one races with that one too, so a covered read
    // that came before is not needed; after a write nothing that it covers is.
    const bool covered = (slot.mask() & ~mask) == 0 && (writes || (ordered && !slot.writes()));
    if (!covered) slots[kept++] = slot;
  }
  bool room = true;
  if (kept == capacity) {
    room = false;
    kept = capacity - 1;
  }
  slots[kept++] = now;
  count = static_cast<uint8_t>(kept);
  return room;
}

}  // namespace tilewright::emulator
