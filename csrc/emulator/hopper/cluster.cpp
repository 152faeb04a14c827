#include "emulator/hopper/cluster.h"

#include <algorithm>
#include <string>

#include "emulator/hopper/state.h"
#include "emulator/ptx/cluster.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"
#include "emulator/sync.h"

namespace tilewright::emulator {
namespace {

enum ClusterOperation : int { kClusterArrive = kFirstHopperOperation, kClusterWait };

unsigned unfinished_threads() {
  unsigned threads = 0;
  for (const Block& block : resident->blocks) threads += block.unfinished;
  return threads;
}

void open_if_complete(ClusterBarrier& barrier, unsigned expected) {
  if (barrier.arrived == 0 || barrier.arrived < expected) return;
  ++barrier.generation;
  barrier.arrived = 0;
  barrier.completed = std::move(barrier.arriving);
  barrier.arriving = Clock();
  for (Thread* thread : barrier.waiting) {
    resident->clocks.acquire(thread->id, barrier.completed);
    if (thread != current) wake(*thread);
  }
  barrier.waiting.clear();
}

}  // namespace

Block& block_of_cluster(int rank, Site site, const char* what) {
  if (rank < 0 || rank >= static_cast<int>(resident->blocks.size())) {
    fail(Kind::barrier, site,
         std::string(what) + ": block rank " + std::to_string(rank) + " in a cluster of " +
             std::to_string(resident->blocks.size()));
  }
  return resident->blocks[static_cast<size_t>(rank)];
}

void note_use(Block& block, AgentStep step, Site site, const char* what) {
  if (block.unfinished == 0) {
    report(Kind::asynchronous, site,
           std::string(what) + " uses the shared memory of block " + std::to_string(block.index.x) +
               " of the cluster, which has ended");
  }
  state().blocks[block.rank].uses.last[step.id] = {step.epoch, site, what};
}

void check_uses_at_end(Block& block) {
  for (const auto& [id, use] : state().blocks[block.rank].uses.last) {
    Epoch known = 0;
    for (unsigned t = 0; t < block.threads; ++t) known = std::max(known, block.first[t].clock[id]);
    if (known >= use.epoch) continue;
    report(Kind::asynchronous, use.site,
           std::string(use.what) + " uses the shared memory of block " + std::to_string(block.index.x) +
               ", and no thread of that block waits for it: the block may have ended before");
  }
}

void cluster_thread_ended() {
  open_if_complete(state().cluster, unfinished_threads() - 1);
}

}  // namespace tilewright::emulator

namespace tilewright::ptx {

using namespace emulator;

namespace {

void arrive_at_cluster(Site site) {
  static constexpr char kWhat[] = "cluster_arrive";
  if (meet(kClusterArrive, 0, ~0u, kWhat, site)) release(~0u);
  ClusterBarrier& barrier = state().cluster;
  if (barrier.arrivals.empty()) barrier.arrivals.resize(resident->threads.size(), 0);
  uint64_t& arrival = barrier.arrivals[current->id];
  if (arrival == barrier.generation + 1) fail(Kind::barrier, site, "cluster_arrive: a thread arrives twice");
  arrival = barrier.generation + 1;
  resident->clocks.join_into(barrier.arriving, current->id);
  tick(*current);
  ++barrier.arrived;
  open_if_complete(barrier, unfinished_threads());
}

void wait_for_cluster(Site site) {
  static constexpr char kWhat[] = "cluster_wait";
  if (meet(kClusterWait, 0, ~0u, kWhat, site)) release(~0u);
  ClusterBarrier& barrier = state().cluster;
  const uint64_t arrival = barrier.arrivals.empty() ? 0 : barrier.arrivals[current->id];
  if (arrival == 0 || arrival < barrier.generation) {
    fail(Kind::barrier, site, "cluster_wait: the thread did not call cluster_arrive before");
  }
  if (arrival == barrier.generation) {  // all have met
    resident->clocks.acquire(current->id, barrier.completed);
    return;
  }
  barrier.waiting.push_back(current);
  park({kWhat, site, 0, 0});
}

}  // namespace

void cluster_arrive() {
  arrive_at_cluster(__builtin_return_address(0));
}

void cluster_wait() {
  wait_for_cluster(__builtin_return_address(0));
}

void cluster_sync() {
  const Site site = __builtin_return_address(0);
  arrive_at_cluster(site);
  wait_for_cluster(site);
}

uint32_t cluster_rank() {
  return current->block->rank;
}

}  // namespace tilewright::ptx
