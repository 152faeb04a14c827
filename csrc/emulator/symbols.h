// Return addresses as functions and source lines, by addr2line where the system has it; otherwise as module
// and offset.
#pragma once

#include <map>
#include <string>

#include "emulator/block.h"

namespace tilewright::emulator {

class Symbols {
 public:
  void want(Site site);
  void want_marks(const std::string& text);

  // After all are wanted: one process per module answers for all addresses.
  std::string line(Site site);      // "gemm.cuh:120", through inlining from the outside in
  std::string function(Site site);  // demangled
  std::string fill(const std::string& text);

 private:
  struct Entry {
    std::string function;
    std::string line;
  };
  void look_up();
  std::map<Site, Entry> entries_;
  bool looked_up_ = false;
};

}  // namespace tilewright::emulator
