#include "cpu/fingerprint.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/threads.h"

namespace tilewright {

namespace {

constexpr uint64_t kFactor =
    0x9E3779B97F4A7C15;       // odd, so multiplying by it loses nothing (2^64 / golden ratio)
constexpr size_t kLanes = 8;  // independent chains: one alone waits 3 cycles for each product
constexpr size_t kChunk = size_t{1} << 20;

uint64_t word_at(const unsigned char* data, size_t bytes) {
  uint64_t word = 0;
  std::memcpy(&word, data, std::min(bytes, sizeof word));
  return word;
}

// Horner's rule modulo 2^64: a word's difference reaches the result times an odd number, so it cannot vanish.
uint64_t chunk_digest(const unsigned char* data, size_t bytes) {
  uint64_t lanes[kLanes] = {};
  constexpr size_t stride = kLanes * sizeof(uint64_t);
  const size_t whole = bytes / stride * stride;
  for (size_t at = 0; at < whole; at += stride) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = lanes[lane] * kFactor + word_at(data + at + lane * sizeof(uint64_t), sizeof(uint64_t));
    }
  }
  uint64_t hash = bytes;
  for (const uint64_t lane : lanes) hash = hash * kFactor + lane;
  for (size_t at = whole; at < bytes; at += sizeof(uint64_t)) {
    hash = hash * kFactor + word_at(data + at, bytes - at);
  }
  return hash;
}

struct Digest {
  const unsigned char* data;
  size_t bytes;
  std::vector<uint64_t> chunks;

  static void body(void* context, int thread, int team) {
    Digest& self = *static_cast<Digest*>(context);
    const size_t count = self.chunks.size();
    const size_t begin = count * thread / team, end = count * (thread + 1) / team;
    for (size_t i = begin; i < end; ++i) {
      self.chunks[i] = chunk_digest(self.data + i * kChunk, std::min(kChunk, self.bytes - i * kChunk));
    }
  }
};

}  // namespace

uint64_t digest(const void* data, size_t bytes, int threads) {
  Digest work{static_cast<const unsigned char*>(data), bytes,
              std::vector<uint64_t>((bytes + kChunk - 1) / kChunk)};
  const int useful = static_cast<int>(std::min<size_t>(threads, work.chunks.size()));
  parallel(useful, Digest::body, &work);
  uint64_t hash = bytes;
  for (const uint64_t chunk : work.chunks) hash = hash * kFactor + chunk;
  return hash;
}

uint64_t sample(const void* data, size_t bytes, size_t count) {
  const unsigned char* bytes_at = static_cast<const unsigned char*>(data);
  if (bytes <= count * sizeof(uint64_t)) return chunk_digest(bytes_at, bytes);
  const size_t last = bytes - sizeof(uint64_t);
  uint64_t hash = bytes;
  for (size_t i = 0; i < count; ++i) {
    // Multiplied first, so that the words are spread evenly; 2^64 bytes of weight times 64 words would
    // overflow.
    hash = hash * kFactor + word_at(bytes_at + last * i / (count - 1), sizeof(uint64_t));
  }
  return hash;
}

}  // namespace tilewright
