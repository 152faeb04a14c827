// A program of small kernels for the emulator. Each case launches kernels and says whether the results are
// right; it may know mutations, bugs built into its kernel by number, which the emulator must notice.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/ptx/sync.cuh"
#include "emulator/control.h"

namespace harness {

struct Case {
  const char* name;
  std::vector<const char*> mutations;  // number 1 first; 0 is the kernel as it should be
  bool (*run)(int mutation);
};

std::vector<Case>& cases();

struct Registration {
  explicit Registration(const Case& c) {
    cases().push_back(c);
  }
};

// Global memory of its own: no other buffer is near, so whatever lies beyond its ends is nobody's.
template <class T>
class Global {
 public:
  Global(size_t count, tilewright::emulator::Use use, const char* name, size_t offset_bytes = 0)
      : bytes_(count * sizeof(T) + offset_bytes + 2 * kApart + kAligned), count_(count) {
    const auto low = reinterpret_cast<uintptr_t>(bytes_.data()) + kApart;
    data_ = reinterpret_cast<T*>((low + kAligned - 1) / kAligned * kAligned + offset_bytes);
    tilewright::emulator::register_buffer(data_, count * sizeof(T), use, name);
  }
  ~Global() {
    tilewright::emulator::unregister_buffer(data_);
  }
  Global(const Global&) = delete;
  Global& operator=(const Global&) = delete;

  T* data() {
    return data_;
  }
  size_t size() const {
    return count_;
  }
  T& operator[](size_t i) {
    return data_[i];
  }

 private:
  static constexpr size_t kApart = 4096;
  static constexpr size_t kAligned = 256;
  std::vector<unsigned char> bytes_;
  size_t count_;
  T* data_;
};

// Small whole numbers: their products and sums are exact in every type, in every order.
inline float whole(uint32_t i) {
  i = i * 2654435761u;
  return static_cast<float>(static_cast<int>(i >> 20) % 9 - 4);
}

}  // namespace harness
