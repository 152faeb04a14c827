#include "emulator/hopper/wgmma.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "emulator/hopper/state.h"
#include "emulator/memory/memory.h"
#include "emulator/ptx/wgmma.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"
#include "emulator/sync.h"

namespace tilewright::emulator {
namespace {

enum WgmmaOperation : int { kFence = kFirstHopperOperation + 16, kCommit, kWait, kMultiplyGroup, kRegisters };

constexpr uint32_t kAll = ~0u;
constexpr int kRegisterFile = 64 * 1024;  // of 32 bits, of a multiprocessor
constexpr size_t kRemembered = 8;         // accumulators of a warp

WarpMultiplies& multiplies() {
  return state().warps[current->warp->number];
}

size_t values_of(const Accumulator& accumulator) {
  return static_cast<size_t>(accumulator.n) / 2;
}

uint64_t mixed(uint64_t hash, uint64_t value) {
  return (hash ^ value) * 0x9e3779b97f4a7c15u + (hash >> 29);
}

uint64_t identity(const Multiply& what) {
  const uint64_t shape = static_cast<uint64_t>(what.n) << 8 | static_cast<uint64_t>(what.type) << 4 |
                         static_cast<uint64_t>(what.a_mn_major) << 2 |
                         static_cast<uint64_t>(what.b_mn_major) << 1 | static_cast<uint64_t>(what.accumulate);
  return mixed(mixed(mixed(1, what.a), what.b), shape);
}

// All four warps must start the same multiplications in the same order.
void check_warpgroup(const Warp& warp, uint64_t operation, Site site) {
  WarpgroupLog& log = state().warpgroups[warp.number / 4];
  const uint64_t number = log.started[warp.number % 4]++;
  if (number - log.first == log.operations.size()) {
    log.operations.push_back(operation);
  } else if (log.operations[number - log.first] != operation) {
    report(Kind::divergence, site,
           "wgmma: warp " + std::to_string(warp.index) +
               " has other operands than another warp of its warpgroup in the same place");
  }
  const uint64_t all = *std::min_element(std::begin(log.started), std::end(log.started));
  for (; log.first < all; ++log.first) log.operations.pop_front();
}

// The registers, row by row as the tile lies.
template <class Visit>
void for_each_register(const Accumulator& accumulator, const Visit& visit) {
  const int n = accumulator.n;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < n / 2; ++i) {
      const AccumulatorPlace place = accumulator_place(lane, i);
      visit(accumulator.registers[lane][i], static_cast<size_t>(place.row * n + place.column));
    }
  }
}

Accumulator& remembered(WarpMultiplies& warp, int n) {
  for (auto it = warp.accumulators.begin(); it != warp.accumulators.end(); ++it) {
    if (it->n == n && std::equal(it->registers, it->registers + 32, warp.registers)) {
      warp.accumulators.splice(warp.accumulators.begin(), warp.accumulators, it);
      return warp.accumulators.front();
    }
  }
  warp.accumulators.emplace_front();
  Accumulator& made = warp.accumulators.front();
  made.n = n;
  std::copy_n(warp.registers, 32, made.registers);
  if (warp.accumulators.size() > kRemembered && !warp.accumulators.back().in_flight)
    warp.accumulators.pop_back();
  return made;
}

void check_fenced(const WarpMultiplies& warp, const Accumulator& accumulator, Site site) {
  if (!warp.fenced) {
    report(Kind::asynchronous, site,
           "wgmma: wgmma_fence is missing between this and what the threads did with their registers before");
    return;
  }
  const size_t bytes = values_of(accumulator) * sizeof(float);
  for (size_t lane = 0; lane < 32; ++lane) {
    const Snapshot& snapshot = warp.at_fence[lane];
    const size_t offset = static_cast<size_t>(
        reinterpret_cast<const unsigned char*>(accumulator.registers[lane]) - snapshot.from);
    if (offset > snapshot.bytes.size() || bytes > snapshot.bytes.size() - offset) continue;
    if (std::memcmp(accumulator.registers[lane], &snapshot.bytes[offset], bytes) != 0) {
      report(Kind::asynchronous, site,
             "wgmma: lane " + std::to_string(lane) + " wrote to its sums after the last wgmma_fence");
      return;
    }
  }
}

// The agent takes the registers over.
void take_off(Warp& warp, Accumulator& accumulator) {
  accumulator.sums.resize(16 * static_cast<size_t>(accumulator.n));
  for_each_register(accumulator, [&](float& value, size_t place) {
    accumulator.sums[place] = value;
    std::memcpy(&value, &kPoison, sizeof value);
  });
  accumulator.in_flight = true;
  for (unsigned lane = 0; lane < 32; ++lane) {
    Thread& thread = warp.lanes[lane];
    if (thread.in_flight_bytes != 0) continue;  // one range is watched, the others compared when they land
    thread.in_flight_low = reinterpret_cast<uintptr_t>(accumulator.registers[lane]);
    thread.in_flight_bytes = values_of(accumulator) * sizeof(float);
  }
}

void land(Warp& warp, Accumulator& accumulator, Site site) {
  uint32_t touched = 0;
  const size_t values = values_of(accumulator);
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (size_t i = 0; i < values; ++i) {
      if (std::memcmp(&accumulator.registers[lane][i], &kPoison, sizeof kPoison) != 0) touched |= 1u << lane;
    }
    Thread& thread = warp.lanes[lane];
    if (thread.in_flight_low == reinterpret_cast<uintptr_t>(accumulator.registers[lane]))
      thread.in_flight_bytes = 0;
  }
  if (touched != 0) {
    report(Kind::asynchronous, site,
           "lane " + std::to_string(__builtin_ctz(touched)) + " of warp " + std::to_string(warp.index) +
               " wrote to its sums while wgmma was in flight: wgmma_wait comes first");
  }
  for_each_register(accumulator, [&](float& value, size_t place) { value = accumulator.sums[place]; });
  accumulator.in_flight = false;
}

void multiply_next(Warp& warp, WarpMultiplies& own) {
  PendingMultiply& next = own.pending.front();
  const OnBehalf lane(warp.lanes);
  const Actor actor = actor_of({own.agent, next.epoch}, next.clock);
  multiply(next.what, warp.index % 4, *warp.block, actor, next.site, next.into->sums.data());
  ++counted.mma;
  own.pending.pop_front();
}

void start(const Multiply& what, Site site) {
  Warp& warp = *current->warp;
  WarpMultiplies& own = multiplies();
  if (own.agent == 0) own.agent = new_agent();
  if (warp.index / 4 * 128 + 128 > warp.block->threads) {
    fail(Kind::divergence, site,
         "wgmma: warp " + std::to_string(warp.index) + " belongs to no complete warpgroup");
  }
  check_warpgroup(warp, identity(what), site);
  for (const bool is_a : {true, false}) {
    const char* const error =
        descriptor_error(decode_descriptor(is_a ? what.a : what.b), is_a ? what.a_mn_major : what.b_mn_major);
    if (error != nullptr) {
      report(Kind::asynchronous, site,
             std::string("wgmma: the descriptor of ") + (is_a ? "A" : "B") + ": " + error);
    }
  }
  Accumulator& into = remembered(own, what.n);
  if (!into.in_flight) {
    check_fenced(own, into, site);
    take_off(warp, into);
  }
  into.last = ++own.issued;
  PendingMultiply pending{what, &into, own.issued, {}, site};
  for (unsigned lane = 0; lane < 32; ++lane) resident->clocks.join_into(pending.clock, warp.lanes[lane].id);
  pending.clock.data()[own.agent] = own.issued;
  own.pending.push_back(std::move(pending));
  for (unsigned lane = 0; lane < 32; ++lane) tick(warp.lanes[lane]);
  const Completion completion = options().completion;
  if (completion == Completion::eager || (completion == Completion::random && resident->random.chance(3))) {
    while (!own.pending.empty()) multiply_next(warp, own);
  }
}

void wait(int groups, Site site) {
  Warp& warp = *current->warp;
  WarpMultiplies& own = multiplies();
  Epoch done = 0;
  for (; own.groups.size() > static_cast<size_t>(groups); own.groups.pop_front()) done = own.groups.front();
  if (done == 0) return;
  while (!own.pending.empty() && own.pending.front().epoch <= done) multiply_next(warp, own);
  for (unsigned lane = 0; lane < 32; ++lane) {
    Epoch& known = warp.lanes[lane].clock[own.agent];
    known = std::max(known, done);
  }
  for (Accumulator& accumulator : own.accumulators) {
    if (!accumulator.in_flight || accumulator.last > done) continue;
    land(warp, accumulator, site);
    own.fenced = false;
  }
}

void fence() {
  const Warp& warp = *current->warp;
  WarpMultiplies& own = multiplies();
  own.fenced = true;
  for (unsigned lane = 0; lane < 32; ++lane) {
    Snapshot& snapshot = own.at_fence[lane];
    const Thread& thread = warp.lanes[lane];
    snapshot.bytes.assign(snapshot.from,
                          reinterpret_cast<const unsigned char*>(thread.stack_low) + thread.stack_bytes);
  }
}

}  // namespace

void multiplies_turn() {
  if (options().completion != Completion::random || !resident->random.chance(4)) return;
  Warp& warp = resident->warps[resident->random.below(static_cast<uint32_t>(resident->warps.size()))];
  WarpMultiplies& own = state().warps[warp.number];
  if (!own.pending.empty()) multiply_next(warp, own);
}

void check_multiplies_at_end() {
  for (Warp& warp : resident->warps) {
    WarpMultiplies& own = state().warps[warp.number];
    const bool in_flight = std::any_of(own.accumulators.begin(), own.accumulators.end(),
                                       [](const Accumulator& accumulator) { return accumulator.in_flight; });
    if (in_flight) {
      const OnBehalf lane(warp.lanes);
      report(Kind::asynchronous, own.pending.empty() ? nullptr : own.pending.front().site,
             "warp " + std::to_string(warp.index) +
                 " ended while its wgmma was in flight: wgmma_wait<0> is missing");
    }
    own.pending.clear();
  }
  for (size_t number = 0; number < state().warpgroups.size(); ++number) {
    const WarpgroupLog& log = state().warpgroups[number];
    for (size_t i = 1; i < 4; ++i) {
      if (log.started[i] == log.started[0]) continue;
      const OnBehalf lane(resident->warps[4 * number + i].lanes);
      report(Kind::divergence, nullptr,
             "wgmma: the warps of warpgroup " + std::to_string(number) + " started " +
                 std::to_string(log.started[0]) + " and " + std::to_string(log.started[i]) +
                 " multiplications: all four must take part in each");
      break;
    }
  }
}

void start_multiply(float* registers, int n, Operand type, bool a_mn_major, bool b_mn_major,
                    uint64_t a_descriptor, uint64_t b_descriptor, bool accumulate) {
  const Site site = __builtin_return_address(0);
  const Multiply what{a_descriptor, b_descriptor, n, type, a_mn_major, b_mn_major, accumulate};
  multiplies().registers[current->lane] = registers;
  if (!meet(kMultiplyGroup, identity(what), kAll, "wgmma", site)) return;
  start(what, site);
  release(kAll);
}

void wait_for_multiplies(int groups) {
  const Site site = __builtin_return_address(0);
  if (!meet(kWait, static_cast<uint64_t>(groups), kAll, "wgmma_wait", site)) return;
  wait(groups, site);
  release(kAll);
}

namespace {

// A device would wait for registers that nobody gives back.
void check_registers(const Block& block, Site site) {
  int all = 0;
  for (unsigned t = 0; t < block.threads; t += 32) {
    const int each = state().warps[block.first[t].warp->number].registers_each;
    if (each == 0) return;  // not known yet
    all += 32 * each;
  }
  if (all <= kRegisterFile) return;
  report(Kind::launch, site,
         "the warps of a block ask for " + std::to_string(all) + " registers; a multiprocessor has " +
             std::to_string(kRegisterFile));
}

}  // namespace

void change_registers(int registers, bool grow) {
  const Site site = __builtin_return_address(0);
  const char* const what = grow ? "registers_grow" : "registers_shrink";
  if (registers < 24 || registers > 256 || registers % 8 != 0) {
    fail(Kind::asynchronous, site,
         std::string(what) + ": " + std::to_string(registers) + "; expected a multiple of 8 from 24 to 256");
  }
  if (!meet(kRegisters, static_cast<uint64_t>(registers), kAll, what, site)) return;
  multiplies().registers_each = registers;
  check_registers(*current->block, site);
  release(kAll);
}

}  // namespace tilewright::emulator

namespace tilewright::ptx {

using namespace emulator;

void wgmma_fence() {
  multiplies().at_fence[current->lane].from = static_cast<const unsigned char*>(__builtin_frame_address(0));
  if (!meet(kFence, 0, kAll, "wgmma_fence", __builtin_return_address(0))) return;
  fence();
  release(kAll);
}

void wgmma_commit() {
  if (!meet(kCommit, 0, kAll, "wgmma_commit", __builtin_return_address(0))) return;
  WarpMultiplies& own = multiplies();
  own.groups.push_back(own.issued);
  release(kAll);
}

}  // namespace tilewright::ptx
