#include "emulator/memory/memory.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "emulator/memory/bank_conflicts.h"
#include "emulator/memory/buffers.h"
#include "emulator/memory/cells.h"
#include "emulator/report.h"

namespace tilewright::emulator {

Thread* watched = nullptr;
bool watching = true;
bool counting_banks = false;

namespace {

// The arenas of a cluster's blocks lie in one reservation, far enough apart that a wrong offset hits no
// other. They are aligned to the 1024 bytes that a kernel may count on, and to no more.
constexpr size_t kStride = 512 * 1024;
constexpr size_t kLead = 128 * 1024 + 1024;
constexpr size_t kBlocks = 16;
constexpr size_t kSharedMost = 256 * 1024;

Options chosen;
unsigned char* arenas = nullptr;
SharedCell* shared_cells[kBlocks];
std::vector<std::unique_ptr<Crowd>> crowds;  // kept for their memory
size_t crowds_used = 0;
uintptr_t arguments = 0;
size_t argument_bytes = 0;

struct Range {
  uintptr_t low, high;
};
std::vector<Range> images;  // of the program and its libraries: constants may be read

int add_image(dl_phdr_info* info, size_t, void*) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_LOAD) continue;
    images.push_back({info->dlpi_addr + header.p_vaddr, info->dlpi_addr + header.p_vaddr + header.p_memsz});
  }
  return 0;
}

bool in_image(uintptr_t address) {
  const auto holds = [&](const Range& range) { return address >= range.low && address < range.high; };
  if (std::any_of(images.begin(), images.end(), holds)) return true;
  images.clear();  // a library may have been loaded since
  dl_iterate_phdr(add_image, nullptr);
  return std::any_of(images.begin(), images.end(), holds);
}

std::string bytes_text(size_t bytes) {
  return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
}

std::string who(Id id) {
  const size_t threads = resident->threads.size();
  if (id < threads) {
    const Thread& thread = resident->threads[id];
    std::string text = "thread " + std::to_string(thread.index);
    if (resident->blocks.size() > 1) text += " of block rank " + std::to_string(thread.block->rank);
    return text;
  }
  for (const Thread& thread : resident->threads) {
    if (thread.copy_agent == id) return "cp.async of thread " + std::to_string(thread.index);
  }
  return agent_name(id);
}

const char* verb(unsigned access) {
  if ((access & kAtomic) != 0) return "atomic update";
  return (access & kWrite) != 0 ? "write" : "read";
}

void report_race(const Actor& actor, Site site, unsigned access, size_t bytes, const std::string& memory,
                 const Slot& other, const char* others_block) {
  const Site there = site_of(other.site());
  if (seen(Kind::race, site, there)) return;
  report(Kind::race, site,
         std::string(verb(access)) + " of " + bytes_text(bytes) + " by " + who(actor.id) + " at " +
             mark(site) + ", " + memory + ", and " + verb(other.access()) + " by " +
             (others_block != nullptr ? std::string(others_block) : who(other.id())) + " at " + mark(there) +
             ": nothing orders them",
         there);
}

std::string shared_text(const Block& block, size_t offset) {
  std::string text = "byte " + std::to_string(offset) + " of the shared memory";
  if (resident->blocks.size() > 1) text += " of block rank " + std::to_string(block.rank);
  return text;
}

SharedCell& fresh(SharedCell& cell) {
  if (cell.group != resident->number) {
    cell.group = resident->number;
    cell.count = 0;
    cell.crowd = 0;
    cell.initialised = 0;
  }
  return cell;
}

bool check_shared(const Actor& actor, Block& block, size_t offset, size_t bytes, unsigned access, Site site) {
  const size_t size = resident->shared_bytes;
  if (offset >= size || bytes > size - offset) {
    report(Kind::out_of_bounds, site,
           std::string(verb(access)) + " of " + bytes_text(bytes) + " at byte " +
               std::to_string(static_cast<long long>(offset)) + " of shared memory; the launch asked for " +
               bytes_text(size));
    return false;
  }
  const uint32_t number = site_number(site);
  SharedCell* cells = shared_cells[block.rank];
  size_t at = offset;
  const size_t end = offset + bytes;
  while (at < end) {
    const size_t index = at / 4;
    const size_t stop = std::min(end, index * 4 + 4);
    const unsigned mask = ((1u << (stop - at)) - 1) << (at % 4);
    SharedCell& cell = fresh(cells[index]);
    const Slot now(actor.epoch, actor.id, mask, access, number);
    if (!enter(cell, kSharedSlots, now, actor.clock, [&](const Slot& other) {
          report_race(actor, site, access, bytes, shared_text(block, at), other, nullptr);
        })) {
      ++counted.slot_overflows;
    }
    if (access != kWrite && (mask & ~cell.initialised) != 0 && !seen(Kind::uninitialised, site)) {
      report(Kind::uninitialised, site,
             "read of " + bytes_text(bytes) + ", of which nothing has written " + shared_text(block, at));
    }
    if ((access & kWrite) != 0) cell.initialised = static_cast<uint8_t>(cell.initialised | mask);
    at = stop;
  }
  return true;
}

// What earlier groups of this launch did is folded into masks: with them, everything but reads conflicts.
void turn_over(GlobalCell& cell) {
  if (cell.launch != resident->launch) {
    cell.launch = resident->launch;
    cell.written = cell.read = cell.added = 0;
  } else {
    for (int i = 0; i < cell.count; ++i) {
      const Slot slot = cell.slots[i];
      if ((slot.access() & kAtomic) != 0) {
        cell.added = static_cast<uint8_t>(cell.added | slot.mask());
      } else if (slot.writes()) {
        cell.written = static_cast<uint8_t>(cell.written | slot.mask());
      } else {
        cell.read = static_cast<uint8_t>(cell.read | slot.mask());
      }
      cell.earlier = slot;
    }
    // A crowd has gone with its group, but it formed only because the slots were full of readers of like
    // kind.
  }
  cell.crowd = 0;
  cell.group = resident->number;
  cell.count = 0;
}

bool check_global(const Actor& actor, uintptr_t address, size_t bytes, unsigned access, Site site) {
  Buffer* buffer = find_buffer(address, bytes);
  if (buffer == nullptr) {
    if (address - arguments < argument_bytes && access == kRead) return true;
    if (access == kRead && in_image(address)) return true;
    report(Kind::out_of_bounds, site,
           std::string(verb(access)) + " of " + bytes_text(bytes) + " of global memory " + locate(address));
    return false;
  }
  if (buffer->use == Use::input) {
    if (access == kRead) return true;
    report(Kind::out_of_bounds, site,
           std::string(verb(access)) + " of " + bytes_text(bytes) + " " + locate(address) +
               ", which is an input");
    return false;
  }
  const uint32_t number = site_number(site);
  size_t at = address;
  const size_t end = address + bytes;
  while (at < end) {
    const size_t index = at / 4 - buffer->first_cell;
    const size_t stop = std::min(end, at / 4 * 4 + 4);
    const unsigned mask = ((1u << (stop - at)) - 1) << (at % 4);
    GlobalCell& cell = buffer->cells[index];
    if (cell.group != resident->number) turn_over(cell);
    const unsigned against = access == kRead           ? cell.written | cell.added
                             : (access & kAtomic) != 0 ? cell.written | cell.read
                                                       : cell.written | cell.read | cell.added;
    if ((against & mask) != 0) {
      report_race(actor, site, access, bytes, locate(at), cell.earlier, "another block");
    }
    const Slot now(actor.epoch, actor.id, mask, access, number);
    if (!enter(cell, kGlobalSlots, now, actor.clock, [&](const Slot& other) {
          report_race(actor, site, access, bytes, locate(at), other, nullptr);
        })) {
      ++counted.slot_overflows;
    }
    if (buffer->initialised != nullptr) {
      uint8_t& initialised = buffer->initialised[index];
      if (access != kWrite && (mask & ~initialised) != 0 && !seen(Kind::uninitialised, site)) {
        report(Kind::uninitialised, site,
               "read of " + bytes_text(bytes) + " " + locate(at) + ", which nothing has written");
      }
      if ((access & kWrite) != 0) initialised = static_cast<uint8_t>(initialised | mask);
    }
    at = stop;
  }
  return true;
}

}  // namespace

void set_options(const Options& options) {
  chosen = options;
  watching = options.checks;
  counting_banks = options.checks && options.bank_conflicts;
}

Options options() {
  return chosen;
}

Block* shared_block(const void* address, size_t& offset) {
  const uintptr_t from = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(arenas);
  if (resident == nullptr || from >= kStride * resident->blocks.size()) return nullptr;
  offset = from % kStride - kLead;
  return &resident->blocks[from / kStride];
}

bool last_writer(const void* address, Id& id, Epoch& epoch) {
  size_t offset = 0;
  const Block* block = shared_block(address, offset);
  if (block == nullptr || offset >= resident->shared_bytes) return false;
  const SharedCell& cell = fresh(shared_cells[block->rank][offset / 4]);
  for (int i = cell.count; i-- > 0;) {
    if (!cell.slots[i].writes()) continue;
    id = cell.slots[i].id();
    epoch = cell.slots[i].epoch();
    return true;
  }
  return false;
}

bool check_access(const Actor& actor, const void* address, size_t bytes, unsigned access, Site site) {
  if (!watching || bytes == 0) return true;
  size_t offset = 0;
  if (Block* block = shared_block(address, offset)) {
    return check_shared(actor, *block, offset, bytes, access, site);
  }
  return check_global(actor, reinterpret_cast<uintptr_t>(address), bytes, access, site);
}

void start_launch(const GridCall& call) {
  if (arenas == nullptr) {
    void* memory = mmap(nullptr, kStride * kBlocks + kStride, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    const auto address = reinterpret_cast<uintptr_t>(memory);
    arenas = reinterpret_cast<unsigned char*>((address + kStride - 1) / kStride * kStride);
  }
  for (unsigned rank = 0; rank < call.cluster; ++rank) {
    if (shared_cells[rank] == nullptr) {
      shared_cells[rank] =
          static_cast<SharedCell*>(mmap(nullptr, kSharedMost / 4 * sizeof(SharedCell), PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    }
  }
  arguments = reinterpret_cast<uintptr_t>(call.context);
  argument_bytes = call.context_bytes;
}

void end_launch() {
  flush_banks();
  arguments = 0;
  argument_bytes = 0;
}

uint32_t new_crowd() {
  constexpr size_t kMost = 60000;
  if (crowds_used == kMost) return 0;
  if (crowds_used == crowds.size()) crowds.push_back(std::make_unique<Crowd>());
  crowds[crowds_used++]->start(resident->threads.size());
  return static_cast<uint32_t>(crowds_used);
}

Crowd& crowd(uint32_t number) {
  return *crowds[number - 1];
}

void start_shared_memory(Group& group) {
  crowds_used = 0;
  for (Block& block : group.blocks) {
    block.shared = arenas + block.rank * kStride + kLead;
    auto* words = reinterpret_cast<uint32_t*>(block.shared);
    std::fill_n(words, (group.shared_bytes + 3) / 4, kPoison);
  }
}

namespace {

// Open addressing; numbers stay what they are, so a slot can be read long after.
constexpr uint32_t kSites = 1u << 20;
Site* sites() {
  static Site* const table = static_cast<Site*>(mmap(nullptr, kSites * sizeof(Site), PROT_READ | PROT_WRITE,
                                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return table;
}
Site* const site_table = sites();

}  // namespace

uint32_t site_number(Site site) {
  auto at = static_cast<uint32_t>((reinterpret_cast<uint64_t>(site) * 0x9e3779b97f4a7c15u) >> 44);
  while (site_table[at] != site) {
    if (site_table[at] == nullptr) {
      site_table[at] = site;
      break;
    }
    at = (at + 1) & (kSites - 1);
  }
  return at;
}

Site site_of(uint32_t number) {
  return site_table[number];
}

}  // namespace tilewright::emulator
