#include "emulator/memory/bank_conflicts.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>

#include "emulator/control.h"
#include "emulator/memory/memory.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {
namespace {

// The accesses of a line by a warp: the n-th of each lane belong together.
struct Gathered {
  uint32_t lanes = 0;
  uint32_t offsets[32];
};
struct Line {
  BankUse use;
  size_t bytes = 0;
  uint32_t done[32] = {};  // accesses of each lane so far
  uint32_t first = 0;      // of those still incomplete
  std::vector<Gathered> waiting;
};
std::unordered_map<uint64_t, Line> lines;
uint32_t lines_of = 0;  // the group they belong to

// Lanes that go in one pass if their words lie in different banks or are the same: a quarter of the warp for
// 16 bytes each, half for 8.
unsigned conflicts_of(const Gathered& access, size_t bytes) {
  const unsigned together = bytes == 16 ? 8 : bytes == 8 ? 16 : 32;
  unsigned extra = 0;
  for (unsigned start = 0; start < 32; start += together) {
    uint32_t words[32 * 4];
    unsigned count = 0;
    for (unsigned lane = start; lane < start + together; ++lane) {
      if ((access.lanes >> lane & 1) == 0) continue;
      for (size_t byte = 0; byte < std::max<size_t>(bytes, 4); byte += 4) {
        words[count++] = (access.offsets[lane] + static_cast<uint32_t>(byte)) / 4;
      }
    }
    std::sort(words, words + count);
    count = static_cast<unsigned>(std::unique(words, words + count) - words);
    unsigned banks[32] = {};
    unsigned most = 0;
    for (unsigned i = 0; i < count; ++i) most = std::max(most, ++banks[words[i] % 32]);
    if (most > 1) extra += most - 1;
  }
  return extra;
}

void add(BankUse use, unsigned extra) {
  (use == BankUse::copy     ? counted.copy_conflicts
   : use == BankUse::vector ? counted.vector_conflicts
                            : counted.scalar_conflicts) += extra;
}

}  // namespace

void count_banks(Thread& thread, const void* address, size_t bytes, BankUse use, Site site) {
  if (!counting_banks) return;
  size_t offset = 0;
  if (shared_block(address, offset) == nullptr) return;
  if (lines_of != resident->number) {
    flush_banks();
    lines_of = resident->number;
  }
  Line& line = lines[uint64_t{thread.warp->number} << 48 ^ reinterpret_cast<uint64_t>(site)];
  line.use = use;
  line.bytes = bytes;
  const uint32_t turn = line.done[thread.lane]++;
  while (line.waiting.size() <= turn - line.first) line.waiting.emplace_back();
  Gathered& access = line.waiting[turn - line.first];
  access.lanes |= 1u << thread.lane;
  access.offsets[thread.lane] = static_cast<uint32_t>(offset);
  size_t complete = 0;
  while (complete < line.waiting.size() && line.waiting[complete].lanes == ~0u) {
    add(use, conflicts_of(line.waiting[complete], bytes));
    ++complete;
  }
  line.waiting.erase(line.waiting.begin(), line.waiting.begin() + static_cast<ptrdiff_t>(complete));
  line.first += static_cast<uint32_t>(complete);
}

void flush_banks() {
  for (auto& [key, line] : lines) {
    for (const Gathered& access : line.waiting) add(line.use, conflicts_of(access, line.bytes));
  }
  lines.clear();
}

unsigned conflicts_of_rows(const unsigned char* const* rows) {
  unsigned banks[8] = {};  // groups of four: a row covers one, being aligned to 16 bytes
  unsigned most = 0;
  for (int row = 0; row < 8; ++row) {
    const auto address = reinterpret_cast<uintptr_t>(rows[row]);
    bool same = false;
    for (int other = 0; other < row; ++other) same |= rows[other] == rows[row];
    if (!same) most = std::max(most, ++banks[address / 16 % 8]);
  }
  return most > 1 ? most - 1 : 0;
}

}  // namespace tilewright::emulator
