#include "emulator/hopper/bulk_copy.h"

#include <cstring>
#include <string>

#include "emulator/hopper/state.h"
#include "emulator/memory/memory.h"
#include "emulator/ptx/tma.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {
namespace {

// Calls visit(address in shared memory, offset in the line, bytes) for the pieces of line `number`, which lie
// together: 16 bytes, or more where no swizzle parts them.
template <class Visit>
void for_each_piece(const BulkCopy& copy, size_t number, uint32_t first, uint32_t end, const Visit& visit) {
  const uint32_t base = copy.shared + static_cast<uint32_t>(number) * copy.line_bytes;
  if (copy.swizzle == Swizzle::none) {
    if (end > first) visit(copy.block->shared + base + first, first, end - first);
    return;
  }
  for (uint32_t at = first; at < end;) {
    const uint32_t piece = std::min(end, (at / kChunkBytes + 1) * kChunkBytes) - at;
    visit(copy.block->shared + swizzled(base + at, copy.swizzle), at, piece);
    at += piece;
  }
}

// Checks all of a line in shared memory: at once where the swizzle only permutes it.
bool check_line(const BulkCopy& copy, const Actor& actor, size_t number, uint32_t first, uint32_t end,
                Access access) {
  const char* const operation = access == kWrite ? "a TMA load" : "a TMA store";
  const char* const verb = access == kWrite ? "overwrites" : "reads";
  const uint32_t base = copy.shared + static_cast<uint32_t>(number) * copy.line_bytes;
  bool good = true;
  const auto check = [&](const unsigned char* at, uint32_t, uint32_t bytes) {
    check_proxy(actor, at, bytes, copy.site, operation, verb);
    good = check_access(actor, at, bytes, access, copy.site) && good;
  };
  const uint32_t span = swizzle_span(copy.swizzle);
  if (copy.swizzle != Swizzle::none && end - first == span && base % span == 0) {
    check(copy.block->shared + base, 0, span);
  } else {
    for_each_piece(copy, number, first, end, check);
  }
  return good;
}

void land(BulkCopy& load) {
  const OnBehalf issuer(load.issuer);
  const Actor actor = actor_of(load.step, load.clock);
  std::vector<unsigned char> line(load.line_bytes);
  for (size_t i = 0; i < load.lines.size(); ++i) {
    const CopyLine& from = load.lines[i];
    std::fill(line.begin(), line.end(), 0);
    if (from.end > from.first) {
      const auto* source = reinterpret_cast<const unsigned char*>(from.global + from.first);
      if (check_access(actor, source, from.end - from.first, kRead, load.site)) {
        std::memcpy(line.data() + from.first, source, from.end - from.first);
      }
    }
    if (!check_line(load, actor, i, 0, load.line_bytes, kWrite)) continue;
    for_each_piece(load, i, 0, load.line_bytes, [&](unsigned char* to, uint32_t at, uint32_t bytes) {
      std::memcpy(to, line.data() + at, bytes);
    });
  }
  land_bytes(*load.block, load.barrier, static_cast<uint32_t>(load.lines.size()) * load.line_bytes,
             load.clock, load.site);
}

void read_shared(BulkCopy& store) {
  if (store.is_read) return;
  store.is_read = true;
  const OnBehalf issuer(store.issuer);
  const Actor actor = actor_of(store.step, store.clock);
  store.data.assign(store.lines.size() * store.line_bytes, 0);
  for (size_t i = 0; i < store.lines.size(); ++i) {
    const CopyLine& line = store.lines[i];
    if (line.end == line.first || !check_line(store, actor, i, line.first, line.end, kRead)) continue;
    unsigned char* const to = store.data.data() + i * store.line_bytes;
    for_each_piece(
        store, i, line.first, line.end,
        [&](const unsigned char* from, uint32_t at, uint32_t bytes) { std::memcpy(to + at, from, bytes); });
  }
}

void write_global(BulkCopy& store) {
  if (store.is_written) return;
  read_shared(store);
  store.is_written = true;
  const OnBehalf issuer(store.issuer);
  resident->clocks.widen(store.clock);
  store.clock.data()[store.written.id] = store.written.epoch;
  const Actor actor = actor_of(store.written, store.clock);
  for (size_t i = 0; i < store.lines.size(); ++i) {
    const CopyLine& line = store.lines[i];
    auto* to = reinterpret_cast<unsigned char*>(line.global + line.first);
    const uint32_t bytes = line.end - line.first;
    if (bytes == 0 || !check_access(actor, to, bytes, kWrite, store.site)) continue;
    std::memcpy(to, store.data.data() + i * store.line_bytes + line.first, bytes);
  }
  store.data = {};
}

void land_at(size_t index) {
  std::vector<std::unique_ptr<BulkCopy>>& pending = state().loads.pending;
  const std::unique_ptr<BulkCopy> load = std::move(pending[index]);
  pending.erase(pending.begin() + static_cast<ptrdiff_t>(index));
  land(*load);
}

MapDescription described(const cuda::TensorMap* map, bool im2col, int rank, Site site, const char* what) {
  MapDescription description;
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0) {
    fail(Kind::misaligned, site, std::string(what) + ": the tensor map's address is no multiple of 64");
  }
  if (!describe(*map, &description)) {
    fail(Kind::asynchronous, site, std::string(what) + ": there is no tensor map at the address given");
  }
  if (description.is_im2col != (im2col ? 1 : 0)) {
    fail(Kind::asynchronous, site,
         std::string(what) + " is given " + (im2col ? "a tiled tensor map" : "an im2col tensor map"));
  }
  if (rank != 0 && rank != description.rank) {
    fail(Kind::asynchronous, site,
         std::string(what) + " is given " + std::to_string(rank) + " coordinates; the tensor map has rank " +
             std::to_string(int{description.rank}));
  }
  return description;
}

uint32_t tile_offset(const void* shared, const MapDescription& map, Site site, const char* what) {
  return shared_offset(shared, swizzle_period(map.swizzle_kind()), site, what);
}

void issue_load(const MapDescription& map, std::vector<CopyLine> lines, const void* shared,
                ptx::Mbarrier* barrier, uint32_t block_mask, Site site, const char* what) {
  const uint32_t to = tile_offset(shared, map, site, what);
  const uint32_t at = shared_offset(barrier, sizeof *barrier, site, what);
  if (block_mask == 0 || block_mask >> resident->blocks.size() != 0) {
    fail(Kind::asynchronous, site,
         std::string(what) + ": block_mask is " + std::to_string(block_mask) + " in a cluster of " +
             std::to_string(resident->blocks.size()));
  }
  const Completion completion = options().completion;
  for (Block& block : resident->blocks) {
    if ((block_mask >> block.rank & 1) == 0) continue;
    mbarrier_at(block, at, true, site, what);
    auto load = std::make_unique<BulkCopy>();
    load->lines = lines;
    load->line_bytes = map.line_bytes();
    load->swizzle = map.swizzle_kind();
    load->block = &block;
    load->shared = to;
    load->barrier = at;
    load->step = state().agents.take(*current);
    load->clock = clock_of(*current, load->step);
    load->issuer = current;
    load->site = site;
    note_use(block, load->step, site, what);
    if (completion == Completion::eager || (completion == Completion::random && resident->random.chance(4))) {
      land(*load);
    } else {
      state().loads.pending.push_back(std::move(load));
    }
  }
  tick(*current);  // what the thread does from now on, the copy is not ordered after
}

void tiled_load(void* shared, const cuda::TensorMap* map, ptx::Mbarrier* barrier, uint32_t block_mask,
                int rank, const int* coordinates, Site site, const char* what) {
  const MapDescription description = described(map, false, rank, site, what);
  issue_load(description, tiled_lines(description, coordinates), shared, barrier, block_mask, site, what);
}

void im2col_load(void* shared, const cuda::TensorMap* map, ptx::Mbarrier* barrier, uint32_t block_mask,
                 const Im2colStart& start, Site site, const char* what) {
  const MapDescription description = described(map, true, 0, site, what);
  if (const std::string error = im2col_start_error(description, start); !error.empty()) {
    fail(Kind::asynchronous, site, std::string(what) + ": " + error);
  }
  issue_load(description, im2col_lines(description, start), shared, barrier, block_mask, site, what);
}

uint32_t own_mask() {
  return 1u << current->block->rank;
}

void tiled_store(const cuda::TensorMap* map, const void* shared, int rank, const int* coordinates,
                 Site site) {
  static constexpr char kWhat[] = "tma_store";
  const MapDescription description = described(map, false, rank, site, kWhat);
  BulkStores& stores = state().threads[current->id].stores;
  if (stores.reader == 0) {
    stores.reader = new_agent();
    stores.writer = new_agent();
  }
  auto store = std::make_unique<BulkCopy>();
  store->lines = tiled_lines(description, coordinates);
  for (const CopyLine& line : store->lines) {
    if (line.end % kChunkBytes == 0) continue;
    report(
        Kind::asynchronous, site,
        "tma_store: the tensor's rows end inside a 16-byte chunk, all of which a device writes; the size of "
        "dimension 0 in bytes must be a multiple of 16");
    break;
  }
  store->line_bytes = description.line_bytes();
  store->swizzle = description.swizzle_kind();
  store->block = current->block;
  store->shared = tile_offset(shared, description, site, kWhat);
  store->step = {stores.reader, ++stores.epoch};
  store->written = {stores.writer, stores.epoch};
  store->clock = clock_of(*current, store->step);
  store->issuer = current;
  store->site = site;
  if (options().completion == Completion::eager) write_global(*store);
  stores.open.push_back(std::move(store));
  tick(*current);
}

// One step of a store that nobody waits for yet.
void advance_some_store(Random& random) {
  const size_t start = random.below(static_cast<uint32_t>(state().threads.size()));
  for (size_t i = 0; i < state().threads.size(); ++i) {
    for (BulkStores::Group& group : state().threads[(start + i) % state().threads.size()].stores.groups) {
      for (const auto& store : group.stores) {
        if (store->is_written) continue;
        if (store->is_read) {
          write_global(*store);
        } else {
          read_shared(*store);
        }
        return;
      }
    }
  }
}

}  // namespace

bool land_one_load() {
  const size_t pending = state().loads.pending.size();
  if (pending == 0) return false;
  const bool any = options().completion == Completion::random;
  land_at(any ? resident->random.below(static_cast<uint32_t>(pending)) : 0);
  return true;
}

void stores_and_loads_turn() {
  if (options().completion != Completion::random) return;
  if (resident->random.chance(8)) land_one_load();
  if (resident->random.chance(8)) advance_some_store(resident->random);
}

void stores_thread_ended(Thread& thread) {
  const BulkStores& stores = state().threads[thread.id].stores;
  if (!stores.open.empty()) {
    report(Kind::asynchronous, stores.open.front()->site,
           "a thread ended without tma_store_commit after this tma_store");
  }
  for (const BulkStores::Group& group : stores.groups) {
    if (group.waited_read || group.stores.empty()) continue;
    report(Kind::asynchronous, group.stores.front()->site,
           "a thread ended without waiting, with tma_store_wait_read<0> or tma_store_wait<0>, until this "
           "tma_store had "
           "read shared memory");
    return;
  }
}

void finish_copies() {
  while (land_one_load()) {
  }
  for (ThreadState& thread : state().threads) {
    for (BulkStores::Group& group : thread.stores.groups) {
      for (const auto& store : group.stores) write_global(*store);
    }
    for (const auto& store : thread.stores.open) write_global(*store);
  }
}

void wait_for_stores(int n, bool read_only) {
  BulkStores& stores = state().threads[current->id].stores;
  const size_t kept = static_cast<size_t>(n);
  const size_t waited = stores.groups.size() > kept ? stores.groups.size() - kept : 0;
  for (size_t i = 0; i < waited; ++i) {
    BulkStores::Group& group = stores.groups[i];
    for (const auto& store : group.stores) {
      if (read_only) {
        read_shared(*store);
      } else {
        write_global(*store);
      }
    }
    group.waited_read = true;
    if (group.last == 0) continue;
    current->clock[stores.reader] = std::max(current->clock[stores.reader], group.last);
    if (!read_only) current->clock[stores.writer] = std::max(current->clock[stores.writer], group.last);
  }
  if (!read_only)
    stores.groups.erase(stores.groups.begin(), stores.groups.begin() + static_cast<ptrdiff_t>(waited));
}

}  // namespace tilewright::emulator

namespace tilewright::ptx {

using namespace emulator;

void tma_prefetch(const TensorMap* map) {
  const Site site = __builtin_return_address(0);
  MapDescription ignored;
  if (!describe(*map, &ignored))
    fail(Kind::asynchronous, site, "tma_prefetch: there is no tensor map at the address given");
}

void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1) {
  const int at[] = {c0, c1};
  tiled_load(shared, map, barrier, own_mask(), 2, at, __builtin_return_address(0), "tma_load");
}

void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2) {
  const int at[] = {c0, c1, c2};
  tiled_load(shared, map, barrier, own_mask(), 3, at, __builtin_return_address(0), "tma_load");
}

void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2, int c3) {
  const int at[] = {c0, c1, c2, c3};
  tiled_load(shared, map, barrier, own_mask(), 4, at, __builtin_return_address(0), "tma_load");
}

void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2, int c3, int c4) {
  const int at[] = {c0, c1, c2, c3, c4};
  tiled_load(shared, map, barrier, own_mask(), 5, at, __builtin_return_address(0), "tma_load");
}

void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask, int c0,
                        int c1) {
  const int at[] = {c0, c1};
  tiled_load(shared, map, barrier, block_mask, 2, at, __builtin_return_address(0), "tma_load_multicast");
}

void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask, int c0,
                        int c1, int c2) {
  const int at[] = {c0, c1, c2};
  tiled_load(shared, map, barrier, block_mask, 3, at, __builtin_return_address(0), "tma_load_multicast");
}

void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask, int c0,
                        int c1, int c2, int c3) {
  const int at[] = {c0, c1, c2, c3};
  tiled_load(shared, map, barrier, block_mask, 4, at, __builtin_return_address(0), "tma_load_multicast");
}

void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask, int c0,
                        int c1, int c2, int c3, int c4) {
  const int at[] = {c0, c1, c2, c3, c4};
  tiled_load(shared, map, barrier, block_mask, 5, at, __builtin_return_address(0), "tma_load_multicast");
}

void tma_load_im2col(void* shared, const TensorMap* map, Mbarrier* barrier, int c, int w, int h, int n,
                     uint16_t offset_w, uint16_t offset_h) {
  im2col_load(shared, map, barrier, own_mask(), {c, w, h, n, offset_w, offset_h}, __builtin_return_address(0),
              "tma_load_im2col");
}

void tma_load_im2col_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask,
                               int c, int w, int h, int n, uint16_t offset_w, uint16_t offset_h) {
  im2col_load(shared, map, barrier, block_mask, {c, w, h, n, offset_w, offset_h}, __builtin_return_address(0),
              "tma_load_im2col_multicast");
}

void tma_store(const TensorMap* map, const void* shared, int c0, int c1) {
  const int at[] = {c0, c1};
  tiled_store(map, shared, 2, at, __builtin_return_address(0));
}

void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2) {
  const int at[] = {c0, c1, c2};
  tiled_store(map, shared, 3, at, __builtin_return_address(0));
}

void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2, int c3) {
  const int at[] = {c0, c1, c2, c3};
  tiled_store(map, shared, 4, at, __builtin_return_address(0));
}

void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2, int c3, int c4) {
  const int at[] = {c0, c1, c2, c3, c4};
  tiled_store(map, shared, 5, at, __builtin_return_address(0));
}

void tma_store_commit() {
  BulkStores& stores = state().threads[current->id].stores;
  BulkStores::Group group;
  group.stores = std::move(stores.open);
  stores.open.clear();
  if (!group.stores.empty()) group.last = stores.epoch;
  stores.groups.push_back(std::move(group));
}

}  // namespace tilewright::ptx
