// The emulator's side of cuda/ptx/sync.cuh.
#pragma once

#include <cstdint>

#include "emulator/platform.h"

namespace tilewright::emulator {

// What `source_lane` of the caller's warp passes: all 32 lanes must call, with the same `operand` (which
// shuffle it is, and its distance where that must be uniform).
uint64_t exchange(uint64_t bits, unsigned source_lane, uint64_t operand);

template <class T>
inline T exchange_value(T value, int source, uint64_t operand) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, static_cast<unsigned>(source), operand);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

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
inline T shuffle(T value, int source) {
  return emulator::exchange_value(value, source, sizeof(T));
}

template <class T>
inline T shuffle_xor(T value, int lane_mask) {
  const auto distance = static_cast<uint64_t>(static_cast<uint32_t>(lane_mask));
  return emulator::exchange_value(value, lane_id() ^ lane_mask,
                                  uint64_t{1} << 40 | distance << 8 | sizeof(T));
}

template <class T>
inline T shuffle_down(T value, int delta) {
  const auto distance = static_cast<uint64_t>(static_cast<uint32_t>(delta));
  const int source = lane_id() + delta;
  return emulator::exchange_value(value, source < 32 ? source : lane_id(),
                                  uint64_t{2} << 40 | distance << 8 | sizeof(T));
}

}  // namespace tilewright::ptx
