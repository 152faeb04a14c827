// Every access of a kernel to memory comes through here: which memory it is, whether it may be touched, and
// whether something else touches it at the same time.
#pragma once

#include "emulator/block.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {

enum Access : unsigned { kRead = 0, kWrite = 1, kAtomic = 2 };  // kAtomic with kWrite: read, modify, write

// The thread whose ordinary accesses are looked at; null while the emulator itself runs, or without checks.
extern Thread* watched;
extern bool watching;
extern bool counting_banks;
inline void watch(Thread* thread) {
  watched = watching ? thread : nullptr;
}

// What `actor` does to [address, address + bytes): bounds, initialisation, races. Returns false, having
// reported, where the memory must not be touched at all.
bool check_access(const Actor& actor, const void* address, size_t bytes, unsigned access, Site site);

// Which block's shared memory holds `address`, null if none does; `offset` within it (also of the space
// around it that no block may touch).
Block* shared_block(const void* address, size_t& offset);

// Who wrote the shared cell of 4 bytes last, as far as it is remembered: false if nobody did.
bool last_writer(const void* address, Id& id, Epoch& epoch);

void start_launch(const GridCall& call);  // `call.context`, the arguments, may be read
void end_launch();
void start_shared_memory(Group& group);  // poisoned, and nothing known of it

// What shared memory holds before anything is written: a signalling NaN as float, a NaN as bf16 and f16.
inline constexpr uint32_t kPoison = 0x7fa17fa1u;

}  // namespace tilewright::emulator
