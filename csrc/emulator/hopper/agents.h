// Ids for asynchronous copies, so that waiting for one copy is no knowledge of another.
//
// Whoever is ordered after epoch e of an agent is ordered after all its epochs before e. Copies complete in
// any order, so each needs an agent that nothing else in flight uses: one whose earlier copies the issuing
// thread is ordered after already, or else a new one.
#pragma once

#include <vector>

#include "emulator/block.h"

namespace tilewright::emulator {

// A step of an agent: what it does counts as done at `epoch` of `id`.
struct AgentStep {
  Id id;
  Epoch epoch;
};

class AgentPool {
 public:
  // For an operation that the thread with this clock starts now.
  AgentStep take(const Thread& issuer);

 private:
  std::vector<AgentStep> agents_;  // with their latest epoch
};

// The clock of an operation that `issuer` starts: what the issuer knows, and the step itself.
Clock clock_of(const Thread& issuer, AgentStep step);

// The same operation as an actor, at the time of its access. Widens `clock` to the ids in use by now.
Actor actor_of(AgentStep step, Clock& clock);

// An id, or the end of the launch where the launch's ids are used up.
Id new_agent();

}  // namespace tilewright::emulator
