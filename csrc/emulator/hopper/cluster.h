// The blocks of a cluster: their barrier, and the rule that a block must not end while others still use its
// shared memory.
#pragma once

#include <map>

#include "emulator/block.h"
#include "emulator/hopper/agents.h"

namespace tilewright::emulator {

struct ClusterBarrier {
  uint64_t generation = 0;  // how often all have met
  unsigned arrived = 0;
  Clock arriving;
  Clock completed;
  std::vector<uint64_t> arrivals;  // by thread: in which generation it arrived, from 1
  std::vector<Thread*> waiting;
};

// What other blocks and copies did to the shared memory of this one: the last epoch of each, and where.
struct SharedUses {
  struct Last {
    Epoch epoch;
    Site site;
    const char* what;
  };
  std::map<Id, Last> last;
};

// The block with this rank, or the end of the launch.
Block& block_of_cluster(int rank, Site site, const char* what);

// `step` does something to the shared memory of `block`: from another block, or asynchronously.
void note_use(Block& block, AgentStep step, Site site, const char* what);

// Reports uses that nothing orders before the end of the block.
void check_uses_at_end(Block& block);

// A thread is about to be counted as ended: the others may be all that the barrier waits for.
void cluster_thread_ended();

}  // namespace tilewright::emulator
