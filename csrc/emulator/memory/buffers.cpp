#include "emulator/memory/buffers.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <vector>

namespace tilewright::emulator {
namespace {

std::vector<Buffer> buffers;
size_t last_found = 0;

// Pages come zeroed, and only when touched.
void* reserve(size_t bytes) {
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

size_t cells_of(const Buffer& buffer) {
  return (buffer.low + buffer.bytes + 3) / 4 - buffer.low / 4;
}

void release(Buffer& buffer) {
  if (buffer.cells != nullptr) munmap(buffer.cells, cells_of(buffer) * sizeof(GlobalCell));
  if (buffer.initialised != nullptr) munmap(buffer.initialised, cells_of(buffer));
}

}  // namespace

Buffer* find_buffer(uintptr_t address, size_t bytes) {
  if (last_found < buffers.size()) {
    Buffer& buffer = buffers[last_found];
    const uintptr_t offset = address - buffer.low;
    if (offset < buffer.bytes && bytes <= buffer.bytes - offset) return &buffer;
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    Buffer& buffer = buffers[i];
    const uintptr_t offset = address - buffer.low;
    if (offset < buffer.bytes && bytes <= buffer.bytes - offset) {
      last_found = i;
      return &buffer;
    }
  }
  return nullptr;
}

std::string locate(uintptr_t address) {
  constexpr uintptr_t kNear = 1 << 20;
  std::string found = "in no registered buffer";
  uintptr_t nearest = kNear;
  for (const Buffer& buffer : buffers) {
    const uintptr_t end = buffer.low + buffer.bytes;
    if (address >= buffer.low && address < end) {
      return "at byte " + std::to_string(address - buffer.low) + " of " + buffer.name + " (" +
             std::to_string(buffer.bytes) + " bytes)";
    }
    if (address >= end && address - end < nearest) {
      nearest = address - end;
      found = std::to_string(nearest) + " bytes beyond the end of " + buffer.name;
    }
    if (address < buffer.low && buffer.low - address < nearest) {
      nearest = buffer.low - address;
      found = std::to_string(nearest) + " bytes before " + buffer.name;
    }
  }
  return found;
}

void register_buffer(const void* address, size_t bytes, Use use, const std::string& name) {
  Buffer buffer;
  buffer.low = reinterpret_cast<uintptr_t>(address);
  buffer.bytes = bytes;
  buffer.use = use;
  buffer.name = name;
  buffer.first_cell = buffer.low / 4;
  if (use != Use::input && bytes != 0) {
    buffer.cells = static_cast<GlobalCell*>(reserve(cells_of(buffer) * sizeof(GlobalCell)));
    if (use == Use::output) buffer.initialised = static_cast<uint8_t*>(reserve(cells_of(buffer)));
  }
  // Where an input is an output too, the stricter bookkeeping counts: those that may be written come first.
  buffers.insert(use == Use::input ? buffers.end() : buffers.begin(), buffer);
}

void unregister_buffer(const void* address) {
  const auto low = reinterpret_cast<uintptr_t>(address);
  const auto found =
      std::find_if(buffers.begin(), buffers.end(), [&](const Buffer& buffer) { return buffer.low == low; });
  if (found == buffers.end()) return;
  release(*found);
  buffers.erase(found);
  last_found = 0;
}

void unregister_all_buffers() {
  for (Buffer& buffer : buffers) release(buffer);
  buffers.clear();
  last_found = 0;
}

}  // namespace tilewright::emulator
