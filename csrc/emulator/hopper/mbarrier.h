// mbarriers: phases that end when all arrivals have come and all announced bytes have landed.
//
// The 8 bytes in shared memory hold only a mark, to notice when something writes over them; the state is kept
// here, by block and offset.
#pragma once

#include <map>
#include <vector>

#include "emulator/block.h"
#include "emulator/hopper/agents.h"

namespace tilewright::emulator {

struct MbarrierState {
  uint32_t offset = 0;
  int64_t count = 0;    // arrivals of a phase
  int64_t pending = 0;  // that are still to come
  int64_t bytes = 0;    // announced and not landed; negative where they landed before the announcement
  uint64_t phase = 0;   // number of completed phases
  Clock arriving;       // of all that arrived in the current phase
  Clock completed;      // of the phase before
  std::vector<Thread*> waiting;
  std::vector<uint64_t> seen;  // by thread of the group: the number of the last phase it waited for, from 1
  AgentStep initialised{};     // by which thread, when
  Epoch fenced = 0;            // when that thread called mbarrier_init_fence; 0: not yet
  Site site = nullptr;         // of the initialisation
};

using Mbarriers = std::map<uint32_t, MbarrierState>;  // by offset in the block's shared memory

// `bytes` of a copy land, whose clock is `clock`.
void land_bytes(Block& block, uint32_t offset, uint32_t bytes, const Clock& clock, Site site);

// The barrier for an operation `what` of the current thread, or the end of the launch. `remote`: through the
// cluster or the asynchronous proxy, where the initialisation must have been fenced.
MbarrierState& mbarrier_at(Block& block, uint32_t offset, bool remote, Site site, const char* what);

// What is left at the end.
void check_mbarriers_at_end(Block& block);

}  // namespace tilewright::emulator
