// What the Hopper half remembers of the resident group: mbarriers by block, fences and copies by thread,
// multiplications by warp. Nothing is set up for a kernel that uses none of it.
#pragma once

#include <memory>
#include <vector>

#include "emulator/block.h"
#include "emulator/hopper/agents.h"
#include "emulator/hopper/bulk_copy.h"
#include "emulator/hopper/cluster.h"
#include "emulator/hopper/mbarrier.h"
#include "emulator/hopper/proxy.h"
#include "emulator/hopper/wgmma.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {

struct BlockState {
  Mbarriers barriers;
  SharedUses uses;
};

struct ThreadState {
  ProxyFences fences;
  BulkStores stores;
  AgentStep remote_arrival{};  // the last one at another block's mbarrier
};

struct HopperState {
  uint32_t group = 0;  // that this belongs to
  std::vector<BlockState> blocks;
  std::vector<ThreadState> threads;
  std::vector<WarpMultiplies> warps;
  std::vector<WarpgroupLog> warpgroups;
  AgentPool agents;
  BulkLoads loads;
  ClusterBarrier cluster;
};

// What happens now is on account of the thread that issued the copy.
class OnBehalf {
 public:
  explicit OnBehalf(Thread* issuer) : saved_(current) {
    current = issuer;
  }
  ~OnBehalf() {
    current = saved_;
  }
  OnBehalf(const OnBehalf&) = delete;
  OnBehalf& operator=(const OnBehalf&) = delete;

 private:
  Thread* saved_;
};

// Of the resident group; empty at its first use.
HopperState& state();

// The offset of `address` in the current block's shared memory; ends the launch where it is elsewhere or no
// multiple of `alignment`.
uint32_t shared_offset(const void* address, uint32_t alignment, Site site, const char* what);

}  // namespace tilewright::emulator
