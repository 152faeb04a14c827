// TMA: copies of boxes between global and shared memory, done by an agent of their own at a time of its
// choosing.
//
// A load lands when no thread can go on without it (Completion::deferred), when it is issued (eager), or any
// time in between, in any order (random); then its bytes count on the mbarrier. A store reads shared memory,
// and later writes global memory, no later than the issuing thread's waits demand.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "emulator/block.h"
#include "emulator/hopper/agents.h"
#include "emulator/tensor_map.h"

namespace tilewright::emulator {

struct BulkCopy {
  std::vector<CopyLine> lines;
  uint32_t line_bytes;
  Swizzle swizzle;
  Block* block;       // whose shared memory
  uint32_t shared;    // offset there
  uint32_t barrier;   // a load's, in the same block
  AgentStep step;     // of the load, or of the store's reading
  AgentStep written;  // of the store's writing
  Clock clock;
  Thread* issuer;
  Site site;
  bool is_read = false, is_written = false;  // a store's progress
  std::vector<unsigned char> data;           // between the two
};

struct BulkLoads {
  std::vector<std::unique_ptr<BulkCopy>> pending;
};

// Of one thread. Its groups complete in order, so that one agent reads for all of them and another writes.
struct BulkStores {
  Id reader = 0, writer = 0;
  Epoch epoch = 0;
  std::vector<std::unique_ptr<BulkCopy>> open;  // not committed
  struct Group {
    std::vector<std::unique_ptr<BulkCopy>> stores;
    Epoch last = 0;
    bool waited_read = false;
  };
  std::deque<Group> groups;  // not waited for entirely
};

// Lets one load land: the oldest, or any. False if none is pending.
bool land_one_load();

// At a scheduler's turn: perhaps something lands or is stored early.
void stores_and_loads_turn();

void stores_thread_ended(Thread& thread);
void finish_copies();

}  // namespace tilewright::emulator
