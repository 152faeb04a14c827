// The global memory that kernels may touch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "emulator/control.h"
#include "emulator/memory/cells.h"

namespace tilewright::emulator {

struct Buffer {
  uintptr_t low = 0;
  size_t bytes = 0;
  Use use = Use::input;
  std::string name;
  GlobalCell* cells = nullptr;     // none for an input: only who writes can race
  uint8_t* initialised = nullptr;  // of an output, a bit per byte
  size_t first_cell = 0;           // low / 4
};

// The buffer that holds all of [address, address + bytes); null: none.
Buffer* find_buffer(uintptr_t address, size_t bytes);

// "3 bytes beyond the end of y", for a report.
std::string locate(uintptr_t address);

}  // namespace tilewright::emulator
