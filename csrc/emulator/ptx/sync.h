// The emulator's side of cuda/ptx/sync.cuh.
#pragma once

#include <cstdint>

#include "emulator/platform.h"

namespace tilewright::emulator {

// What `source_lane` of the caller's warp passes: all 32 lanes must call.
uint64_t exchange(uint64_t bits, int source_lane);

}  // namespace tilewright::emulator

namespace tilewright::ptx {

inline constexpr uint32_t kWholeWarp = 0xffffffffu;

void sync_threads();
void sync_warp(uint32_t mask = kWholeWarp);
void barrier_sync(int id, int threads);
void barrier_arrive(int id, int threads);
bool elect_one();
int lane_id();

template <class T>
T shuffle(T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = emulator::exchange(bits, source);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T shuffle_xor(T value, int lane_mask) {
  return shuffle(value, lane_id() ^ lane_mask);
}

template <class T>
T shuffle_down(T value, int delta) {
  const int source = lane_id() + delta;
  return shuffle(value, source < 32 ? source : lane_id());
}

}  // namespace tilewright::ptx
