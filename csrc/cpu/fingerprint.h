// Tells whether memory still holds what it held: how a packed weight notices that its source was written.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tilewright {

// A hash of all bytes. Two contents that differ in one 8-byte word never have the same digest; others do by
// chance, once in 2^64. Does not depend on `threads`.
uint64_t digest(const void* data, size_t bytes, int threads);

// The same of `count` 8-byte words that are spread evenly from the first byte to the last.
uint64_t sample(const void* data, size_t bytes, size_t count);

}  // namespace tilewright
