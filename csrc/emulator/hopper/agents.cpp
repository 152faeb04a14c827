#include "emulator/hopper/agents.h"

#include "emulator/report.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {

Id new_agent() {
  if (resident->clocks.width() >= resident->clocks.capacity()) {
    fail(Kind::asynchronous, nullptr,
         "more asynchronous operations are in flight, or ended without anybody waiting for them, than the " +
             std::to_string(resident->clocks.capacity()) + " that the race detector tells apart");
  }
  return resident->clocks.new_agent();
}

AgentStep AgentPool::take(const Thread& issuer) {
  for (AgentStep& agent : agents_) {
    if (issuer.clock[agent.id] >= agent.epoch) {
      ++agent.epoch;
      return agent;
    }
  }
  agents_.push_back({new_agent(), 1});
  return agents_.back();
}

Clock clock_of(const Thread& issuer, AgentStep step) {
  Clock clock;
  resident->clocks.join_into(clock, issuer.id);
  clock.data()[step.id] = step.epoch;
  return clock;
}

Actor actor_of(AgentStep step, Clock& clock) {
  resident->clocks.widen(clock);
  return {step.id, step.epoch, clock.data()};
}

}  // namespace tilewright::emulator
