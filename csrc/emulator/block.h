// What is resident while it runs: the blocks of one cluster (mostly one block), their warps and threads.
#pragma once

#include <vector_types.h>

#include <cstdint>
#include <vector>

#include "emulator/clock.h"
#include "emulator/fiber.h"
#include "emulator/random.h"

namespace tilewright::emulator {

struct Warp;
struct Block;
struct Group;

using Site = const void*;  // a return address in the kernel: which line, looked up only for a report

// Why a thread does not run, for the report of a deadlock. `a` and `b` are whatever the operation is told
// apart by.
struct Wait {
  const char* what = nullptr;  // null: it can run
  Site site = nullptr;
  long long a = 0, b = 0;
};

// State that the Hopper half keeps with a thread, a block or a cluster.
struct Extension {
  virtual ~Extension() = default;
};

struct PendingCopy {
  unsigned char* to;
  const unsigned char* from;
  uint32_t bytes;
  uint32_t valid;
  Epoch group;
};

struct Thread {
  // What the hooks look at comes first: the stack, and the part of it that counts as registers which an
  // operation in flight still owns (empty: none).
  uintptr_t stack_low = 0;
  size_t stack_bytes = 0;
  uintptr_t in_flight_low = 0;
  size_t in_flight_bytes = 0;
  Epoch* clock = nullptr;  // its row of the group's ClockSpace
  Id id = 0;               // among all threads of the group
  unsigned index = 0;      // in its block
  unsigned lane = 0;
  Warp* warp = nullptr;
  Block* block = nullptr;
  bool finished = false;
  Wait wait;
  bool (*ready)(void*) = nullptr;  // what wait_until waits for
  void* ready_context = nullptr;

  // cp.async: its agent (0: none yet), groups committed, groups waited for.
  Id copy_agent = 0;
  Epoch copy_groups = 0;
  Epoch copies_done = 0;
  Epoch last_copy_group = 0;
  Site last_copy_site = nullptr;
  std::vector<PendingCopy> copies;

  Extension* extension = nullptr;
  Fiber fiber;
};

// Lanes of a warp that meet for one operation.
struct Rendezvous {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  int operation = 0;
  uint64_t operand = 0;
  Site site = nullptr;
};

struct Warp {
  Block* block = nullptr;
  Thread* lanes = nullptr;  // 32 in a row
  unsigned index = 0;       // in its block
  unsigned number = 0;      // in its group
  uint32_t runnable = 0;    // lanes
  uint32_t finished = 0;    // lanes
  bool descending = false;  // the order in which lanes get their turn
  int place = -1;           // in the scheduler's list of runnable warps
  int meetings = 0;
  Rendezvous meeting[4];
  Extension* extension = nullptr;
};

struct NamedBarrier {
  int threads = 0;  // that the arrivals so far name
  int arrived = 0;
  Clock clock;  // of all that arrived
  std::vector<Thread*> waiting;
  std::vector<uint32_t> lanes;  // that arrived, by warp
  Site site = nullptr;
};

struct Block {
  Group* group = nullptr;
  unsigned rank = 0;  // in its cluster
  uint3 index{};
  unsigned char* shared = nullptr;  // its dynamic shared memory
  unsigned threads = 0;
  unsigned unfinished = 0;  // threads
  Thread* first = nullptr;
  NamedBarrier barriers[16];
  Extension* extension = nullptr;
};

struct Group {
  dim3 grid{};
  unsigned threads_per_block = 0;
  size_t shared_bytes = 0;  // of each block
  uint32_t launch = 0;      // counts launches of the process
  uint32_t number = 0;      // counts groups of the process: marks what belongs to an earlier one
  std::vector<Block> blocks;
  std::vector<Warp> warps;
  std::vector<Thread> threads;
  ClockSpace clocks;
  Random random;
  unsigned elected_lane = 0;  // by elect_one: fixed for a launch, any for a program
  Extension* extension = nullptr;
};

// Who accesses memory, and what it is ordered after: a thread, or an agent on behalf of one.
struct Actor {
  Id id;
  Epoch epoch;
  const Epoch* clock;
};

inline Actor actor_of(const Thread& thread) {
  return {thread.id, thread.clock[thread.id], thread.clock};
}

// The thread releases: what it does from now on is not covered by what others acquired until now.
void tick(Thread& thread);

}  // namespace tilewright::emulator
