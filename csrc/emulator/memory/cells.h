// What is remembered of each 4 bytes of memory: who accessed them since the last write, and when.
#pragma once

#include <cstdint>
#include <vector>

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
  bool empty() const {
    return bits_ == 0;
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
  uint16_t crowd = 0;       // its further readers: a number of a Crowd, 0 if none
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
  uint32_t crowd = 0;
  Slot earlier;  // one of those
  Slot slots[kGlobalSlots];
};
static_assert(sizeof(GlobalCell) == 64);

// Places by number, so that a slot can hold one.
uint32_t site_number(Site site);
Site site_of(uint32_t number);

// The readers of a cell beyond those that its slots hold: tables in shared memory are read by every thread. A
// place for each thread and way of reading a word: whole, its first half, its second half.
class Crowd {
 public:
  void start(size_t threads) {
    readers_.assign(threads * kWays, Slot());
  }
  bool add(const Slot& read) {
    const int way = read.mask() == 15 ? 0 : read.mask() == 3 ? 1 : read.mask() == 12 ? 2 : kWays;
    const size_t at = read.id() * kWays + static_cast<size_t>(way);
    if (way == kWays || at >= readers_.size()) return false;
    readers_[at] = read;
    return true;
  }
  // A write of these bytes. Returns whether readers are left.
  template <class Race>
  bool written(unsigned mask, const Epoch* clock, Race race) {
    bool left = false;
    for (Slot& read : readers_) {
      if (read.empty()) continue;
      if ((read.mask() & mask) != 0 && !read.before(clock)) race(read);
      if ((read.mask() & ~mask) == 0) {
        read = Slot();
      } else {
        left = true;
      }
    }
    return left;
  }

 private:
  static constexpr int kWays = 3;
  std::vector<Slot> readers_;
};

// Those of the resident group, by number from 1; 0: there is no more.
uint32_t new_crowd();
Crowd& crowd(uint32_t number);

// Enters an access in a cell; calls `race(slot)` for each earlier one that conflicts and is not ordered
// before it. Returns false if an access had to be forgotten to make room.
template <class Cell, class Race>
inline bool enter(Cell& cell, int capacity, const Slot& now, const Epoch* clock, Race race) {
  const unsigned mask = now.mask();
  const unsigned access = now.access();
  const bool writes = now.writes();
  if (writes && cell.crowd != 0) {
    // An atomic update leaves nobody out either: it conflicts with plain reads as a store does.
    if (!crowd(cell.crowd).written(mask, clock, race)) cell.crowd = 0;
  }
  int kept = 0;
  for (int i = 0; i < cell.count; ++i) {
    const Slot slot = cell.slots[i];
    const bool ordered = slot.before(clock);
    if (!ordered && (slot.mask() & mask) != 0 && conflicting(slot.access(), access)) race(slot);
    // Whatever races with this read and is ordered after that one races with that one too, so a covered read
    // that came before is not needed; after a write nothing that it covers is.
    const bool covered = (slot.mask() & ~mask) == 0 && (writes || (ordered && !slot.writes()));
    if (!covered) cell.slots[kept++] = slot;
  }
  bool room = true;
  if (kept == capacity) {
    if (!writes) {
      if (cell.crowd == 0) cell.crowd = static_cast<decltype(cell.crowd)>(new_crowd());
      if (cell.crowd != 0 && crowd(cell.crowd).add(now)) {
        cell.count = static_cast<uint8_t>(kept);
        return true;
      }
    }
    room = false;
    kept = capacity - 1;
  }
  cell.slots[kept++] = now;
  cell.count = static_cast<uint8_t>(kept);
  return room;
}

}  // namespace tilewright::emulator
