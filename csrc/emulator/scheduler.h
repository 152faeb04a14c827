// Who runs. One thread at a time, until it waits: first the other lanes of its warp, then another warp, drawn
// from the seed.
#pragma once

#include <string>

#include "emulator/block.h"

namespace tilewright::emulator {

extern Thread* current;  // null: no kernel is running
extern Group* resident;  // the group `current` belongs to

// The thread that runs now waits until another calls wake() on it.
void park(const Wait& wait);
void wake(Thread& thread);
void wake(Warp& warp, uint32_t lanes);

// Waits until `ready(context)`; asked again whenever no thread can run otherwise, and now and then before.
void wait_until(bool (*ready)(void*), void* context, const Wait& wait);

// Lets others run; the caller stays runnable.
void yield();

// Ends the launch: the fibers are left as they are, run_grid returns.
[[noreturn]] void abandon();

// Asynchronous agents join in here. `idle` is called when no thread can run, and returns whether it did
// something; `group_start` and `group_end` when a group has been set up, and when its threads have ended;
// `thread_end` as a thread ends. Null members are skipped.
struct Agents {
  void (*group_start)(Group&) = nullptr;
  void (*group_end)(Group&) = nullptr;
  void (*thread_end)(Thread&) = nullptr;
  bool (*idle)(Group&) = nullptr;
  void (*turn)(Group&) = nullptr;            // whenever another warp gets its turn
  bool (*name)(Id, std::string&) = nullptr;  // of an agent, for reports; false: not one of these
};
void add_agents(const Agents& agents);
std::string agent_name(Id id);

struct GridCall {
  dim3 grid;
  unsigned threads;
  unsigned cluster;
  size_t shared_bytes;
  void (*call)(void*);
  void* context;
  size_t context_bytes;
  Site kernel;
};
// Runs `call.call(context)` once per thread of the grid, and returns when all have ended or one abandoned.
void run(const GridCall& call);

}  // namespace tilewright::emulator
