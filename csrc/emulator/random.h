// A small seeded generator (splitmix64): the same seed gives the same run on every machine.
#pragma once

#include <cstdint>

namespace tilewright::emulator {

class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed) {}

  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, n).
  uint32_t below(uint32_t n) {
    return static_cast<uint32_t>(((next() >> 32) * n) >> 32);
  }
  bool chance(uint32_t one_in) {
    return below(one_in) == 0;
  }

 private:
  uint64_t state_;
};

}  // namespace tilewright::emulator
