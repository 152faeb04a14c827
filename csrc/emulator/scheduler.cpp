#include "emulator/scheduler.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>

#include "emulator/memory/memory.h"
#include "emulator/report.h"
#include "emulator/sync.h"

namespace tilewright::emulator {

Thread* current = nullptr;
Group* resident = nullptr;

namespace {

Fiber program;  // the stack that called run()
const GridCall* grid_call = nullptr;
bool abandoned = false;
unsigned unfinished = 0;             // threads of the group
std::vector<Warp*> runnable;         // warps with a runnable lane
std::vector<Thread*> waiting_until;  // threads in wait_until
std::vector<Agents> agents;
std::unique_ptr<Group> group;  // kept between launches for its allocations
std::vector<Fiber> stacks;

void switch_to(Thread& next) {
  Thread& from = *current;
  if (&next == &from) return;
  ++counted.switches;
  current = &next;
  watch(&next);
  switch_fiber(from.fiber, next.fiber);
}

void to_program(Fiber& from) {
  current = nullptr;
  watch(nullptr);
  switch_fiber(from, program);
}

void set_runnable(Warp& warp, uint32_t lanes) {
  if (warp.runnable == 0 && lanes != 0) {
    warp.place = static_cast<int>(runnable.size());
    runnable.push_back(&warp);
  }
  warp.runnable |= lanes;
}

void clear_runnable(Warp& warp, uint32_t lanes) {
  warp.runnable &= ~lanes;
  if (warp.runnable != 0 || warp.place < 0) return;
  runnable.back()->place = warp.place;
  runnable[static_cast<size_t>(warp.place)] = runnable.back();
  runnable.pop_back();
  warp.place = -1;
}

// The next runnable lane after `lane` in the warp's order.
unsigned next_lane(const Warp& warp, unsigned lane) {
  if (warp.descending) {
    const uint32_t turned =
        lane == 0 ? warp.runnable : (warp.runnable << (32 - lane)) | (warp.runnable >> lane);
    return (lane + 31 - static_cast<unsigned>(__builtin_clz(turned))) & 31;
  }
  const unsigned start = (lane + 1) & 31;
  const uint32_t turned =
      start == 0 ? warp.runnable : (warp.runnable >> start) | (warp.runnable << (32 - start));
  return (start + static_cast<unsigned>(__builtin_ctz(turned))) & 31;
}

Thread& pick(Warp& warp) {
  for (const Agents& a : agents) {
    if (a.turn != nullptr) a.turn(*resident);
  }
  return warp.lanes[next_lane(warp, resident->random.below(32))];
}

// Wakes those whose condition holds by now.
bool poll() {
  size_t kept = 0;
  bool woken = false;
  for (size_t i = 0; i < waiting_until.size(); ++i) {
    Thread& thread = *waiting_until[i];
    if (thread.ready(thread.ready_context)) {
      thread.ready = nullptr;
      wake(thread);
      woken = true;
    } else {
      waiting_until[kept++] = &thread;
    }
  }
  waiting_until.resize(kept);
  return woken;
}

std::string lanes_text(uint32_t lanes) {
  std::string text;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    unsigned last = lane;
    while (last < 31 && (lanes >> (last + 1) & 1) != 0) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(lane);
    if (last != lane) text += "-" + std::to_string(last);
    lane = last;
  }
  return text;
}

// Who waits where, a line for lanes of a warp that wait for the same.
void report_deadlock() {
  std::string text = "no thread can go on:";
  Site site = nullptr;
  for (Warp& warp : resident->warps) {
    uint32_t told = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
      const Wait& wait = warp.lanes[lane].wait;
      if ((told >> lane & 1) != 0 || warp.lanes[lane].finished) continue;
      uint32_t same = 0;
      for (unsigned other = lane; other < 32; ++other) {
        const Wait& theirs = warp.lanes[other].wait;
        if (!warp.lanes[other].finished && theirs.what == wait.what && theirs.site == wait.site &&
            theirs.a == wait.a) {
          same |= 1u << other;
        }
      }
      told |= same;
      if (site == nullptr) site = wait.site;
      if (text.size() > 4000) continue;
      text += "\n  block " + std::to_string(warp.block->index.x) + "," + std::to_string(warp.block->index.y) +
              "," + std::to_string(warp.block->index.z) + " warp " + std::to_string(warp.index) + " lanes " +
              lanes_text(same) + ": " + (wait.what != nullptr ? wait.what : "?") + " (" +
              std::to_string(wait.a) + ", " + std::to_string(wait.b) + ") at " + mark(wait.site);
    }
    if (warp.finished != 0 && warp.finished != ~0u && text.size() <= 4000) {
      text += "\n  block " + std::to_string(warp.block->index.x) + " warp " + std::to_string(warp.index) +
              " lanes " + lanes_text(warp.finished) + ": ended";
    }
  }
  report(Kind::deadlock, site, text);
}

// Some other thread, because the current one cannot run.
Thread& next() {
  Warp& warp = *current->warp;
  if (warp.runnable != 0) return warp.lanes[next_lane(warp, current->lane)];
  while (runnable.empty()) {
    bool progress = poll();
    for (const Agents& a : agents) {
      if (!progress && a.idle != nullptr) progress = a.idle(*resident);
    }
    if (!progress) {
      report_deadlock();
      abandon();
    }
  }
  if (!waiting_until.empty() && resident->random.chance(4)) poll();
  return pick(*runnable[resident->random.below(static_cast<uint32_t>(runnable.size()))]);
}

[[noreturn]] void thread_main() {
  grid_call->call(grid_call->context);
  Thread& self = *current;
  watch(nullptr);
  thread_ended(self);
  for (const Agents& a : agents) {
    if (a.thread_end != nullptr) a.thread_end(self);
  }
  self.finished = true;
  self.warp->finished |= 1u << self.lane;
  --self.block->unfinished;
  barriers_after_end(self);
  clear_runnable(*self.warp, 1u << self.lane);
  if (--unfinished == 0) to_program(self.fiber);
  switch_to(next());
  __builtin_unreachable();
}

void set_up(Group& g, const GridCall& call) {
  g.grid = call.grid;
  g.threads_per_block = call.threads;
  g.shared_bytes = call.shared_bytes;
  const unsigned threads = call.threads * call.cluster;
  g.blocks.clear();
  g.blocks.resize(call.cluster);
  g.warps.clear();
  g.warps.resize(threads / 32);
  g.threads.clear();
  g.threads.resize(threads);
  while (stacks.size() < threads) {
    stacks.emplace_back();
    allocate_stack(stacks.back(), static_cast<unsigned>(stacks.size()));
  }
  for (unsigned rank = 0; rank < call.cluster; ++rank) {
    Block& block = g.blocks[rank];
    block.group = &g;
    block.rank = rank;
    block.threads = call.threads;
    block.first = &g.threads[rank * call.threads];
  }
  for (unsigned w = 0; w < threads / 32; ++w) {
    Warp& warp = g.warps[w];
    warp.block = &g.blocks[w / (call.threads / 32)];
    warp.index = w % (call.threads / 32);
    warp.number = w;
    warp.lanes = &g.threads[w * 32];
  }
  for (unsigned t = 0; t < threads; ++t) {
    Thread& thread = g.threads[t];
    thread.id = t;
    thread.index = t % call.threads;
    thread.lane = t % 32;
    thread.warp = &g.warps[t / 32];
    thread.block = thread.warp->block;
    thread.fiber = stacks[t];
    thread.stack_low = reinterpret_cast<uintptr_t>(thread.fiber.low);
    thread.stack_bytes = thread.fiber.bytes;
  }
}

// Runs the cluster that begins at block `first` of the grid, in x-major order.
void run_group(Group& g, const GridCall& call, uint64_t first) {
  const unsigned threads = static_cast<unsigned>(g.threads.size());
  static uint32_t groups = 0;
  g.number = ++groups;
  g.clocks.reset(threads, std::min<size_t>(kMaxIds, 2 * threads + threads / 16 + 128 * call.cluster));
  for (Block& block : g.blocks) {
    const uint64_t number = first + block.rank;
    block.index.x = static_cast<unsigned>(number % call.grid.x);
    block.index.y = static_cast<unsigned>(number / call.grid.x % call.grid.y);
    block.index.z = static_cast<unsigned>(number / call.grid.x / call.grid.y);
    block.unfinished = call.threads;
    for (NamedBarrier& barrier : block.barriers) barrier = {};
  }
  runnable.clear();
  waiting_until.clear();
  for (Warp& warp : g.warps) {
    warp.runnable = 0;
    warp.place = -1;
    warp.finished = 0;
    warp.meetings = 0;
    set_runnable(warp, ~0u);
  }
  for (Thread& thread : g.threads) {
    thread.clock = g.clocks.row(thread.id);
    thread.finished = false;
    thread.wait = {};
    thread.ready = nullptr;
    thread.copy_agent = 0;
    thread.copy_groups = 0;
    thread.copies_done = 0;
    thread.last_copy_group = 0;
    thread.copies.clear();
    thread.in_flight_bytes = 0;
    prepare(thread.fiber, thread.index * 5, thread_main);
  }
  unfinished = threads;
  start_shared_memory(g);
  for (const Agents& a : agents) {
    if (a.group_start != nullptr) a.group_start(g);
  }
  Thread& start = pick(*runnable[g.random.below(static_cast<uint32_t>(runnable.size()))]);
  current = &start;
  watch(&start);
  ++counted.switches;
  switch_fiber(program, start.fiber);
  for (const Agents& a : agents) {
    if (a.group_end != nullptr) a.group_end(g);
  }
  counted.blocks += call.cluster;
}

}  // namespace

void tick(Thread& thread) {
  if (++thread.clock[thread.id] > kMaxEpoch) {
    fail(Kind::launch, nullptr, "a thread synchronised more than 2^24 times: too long for the race detector");
  }
}

void park(const Wait& wait) {
  Thread& self = *current;
  self.wait = wait;
  clear_runnable(*self.warp, 1u << self.lane);
  switch_to(next());
  self.wait.what = nullptr;
}

void wake(Thread& thread) {
  set_runnable(*thread.warp, 1u << thread.lane);
}

void wake(Warp& warp, uint32_t lanes) {
  set_runnable(warp, lanes);
}

void wait_until(bool (*ready)(void*), void* context, const Wait& wait) {
  if (ready(context)) return;
  current->ready = ready;
  current->ready_context = context;
  waiting_until.push_back(current);
  park(wait);
}

void yield() {
  if (!waiting_until.empty()) poll();
  switch_to(pick(*runnable[resident->random.below(static_cast<uint32_t>(runnable.size()))]));
}

void abandon() {
  abandoned = true;
  to_program(current->fiber);
  __builtin_unreachable();
}

void add_agents(const Agents& more) {
  agents.push_back(more);
}

std::string agent_name(Id id) {
  std::string text;
  for (const Agents& a : agents) {
    if (a.name != nullptr && a.name(id, text)) return text;
  }
  return "asynchronous agent " + std::to_string(id - resident->threads.size());
}

void run(const GridCall& call) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  static uint32_t launches = 0;
  if (group == nullptr) group = std::make_unique<Group>();
  Group& g = *group;
  set_up(g, call);
  g.launch = ++launches;
  ++counted.launches;
  set_kernel(call.kernel);
  const uint64_t seed = options().seed;
  g.random = Random(seed);
  g.elected_lane = seed == 0 ? 0 : g.random.below(32);
  resident = &g;
  grid_call = &call;
  abandoned = false;
  start_launch(call);

  const uint64_t groups = uint64_t{call.grid.x} * call.grid.y * call.grid.z / call.cluster;
  std::vector<uint64_t> order(groups);
  std::iota(order.begin(), order.end(), 0);
  for (uint64_t i = groups; seed != 0 && i > 1; --i) {
    std::swap(order[i - 1], order[g.random.below(static_cast<uint32_t>(i))]);
  }
  for (const uint64_t number : order) {
    for (Warp& warp : g.warps) warp.descending = seed != 0 && g.random.chance(2);
    run_group(g, call, number * call.cluster);
    if (abandoned) break;
  }
  end_launch();
  resident = nullptr;
  grid_call = nullptr;
}

}  // namespace tilewright::emulator
