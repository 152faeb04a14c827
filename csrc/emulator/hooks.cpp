// What -fsanitize=thread makes the kernels call for every load and store that is not plainly a variable of
// their own. The runtime that usually answers, libtsan, is not linked: these are the checks of a GPU's memory
// in its place.
#include <cstring>
#include <string>

#include "emulator/memory/bank_conflicts.h"
#include "emulator/memory/memory.h"
#include "emulator/report.h"

namespace tilewright::emulator {
namespace {

// Accesses that a thread makes in one go. Nothing else runs meanwhile, so one that makes this many waits for
// memory to change, and would for ever.
constexpr uint64_t kEndless = 1u << 24;
uint64_t accesses = 0;
uint64_t switches = 0;  // at the first of them

// Returns with the access allowed, or not at all.
void touch_memory(Thread& thread, uintptr_t address, size_t bytes, unsigned access, Site site) {
  watch(nullptr);
  if (counted.switches != switches) {
    switches = counted.switches;
    accesses = 0;
  }
  if (++accesses == kEndless) {
    fail(Kind::deadlock, site,
         "a thread touched memory " + std::to_string(kEndless) +
             " times without letting others run: it waits for what nobody can change");
  }
  const auto* const pointer = reinterpret_cast<const void*>(address);
  if (!check_access(actor_of(thread), pointer, bytes, access, site)) abandon();
  if (counting_banks)
    count_banks(thread, pointer, bytes, bytes >= 8 ? BankUse::vector : BankUse::scalar, site);
  watch(&thread);
}

inline void touch(const void* pointer, size_t bytes, unsigned access, Site site) {
  Thread* thread = watched;
  if (thread == nullptr) return;
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address - thread->stack_low < thread->stack_bytes) {
    if (address - thread->in_flight_low < thread->in_flight_bytes) [[unlikely]] {
      report(Kind::asynchronous, site,
             "registers of an operation in flight are used before it was waited for");
    }
    return;
  }
  touch_memory(*thread, address, bytes, access, site);
}

// An access as wide as its type is aligned to.
template <size_t bytes>
inline void touch_aligned(const void* pointer, unsigned access, Site site) {
  if (bytes > 1 && reinterpret_cast<uintptr_t>(pointer) % bytes != 0 && watched != nullptr) [[unlikely]] {
    report(Kind::misaligned, site,
           "access of " + std::to_string(bytes) + " bytes at an address that " + std::to_string(bytes) +
               " does not divide");
  }
  touch(pointer, bytes, access, site);
}

}  // namespace
}  // namespace tilewright::emulator

using namespace tilewright::emulator;

#define SITE __builtin_return_address(0)

#define HOOKS(bytes)                            \
  void __tsan_read##bytes(void* p) {            \
    touch_aligned<bytes>(p, kRead, SITE);       \
  }                                             \
  void __tsan_write##bytes(void* p) {           \
    touch_aligned<bytes>(p, kWrite, SITE);      \
  }                                             \
  void __tsan_unaligned_read##bytes(void* p) {  \
    touch(p, bytes, kRead, SITE);               \
  }                                             \
  void __tsan_unaligned_write##bytes(void* p) { \
    touch(p, bytes, kWrite, SITE);              \
  }                                             \
  void __tsan_volatile_read##bytes(void* p) {   \
    touch_aligned<bytes>(p, kRead, SITE);       \
  }                                             \
  void __tsan_volatile_write##bytes(void* p) {  \
    touch_aligned<bytes>(p, kWrite, SITE);      \
  }

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void* p, size_t bytes) {
  touch(p, bytes, kRead, SITE);
}
void __tsan_write_range(void* p, size_t bytes) {
  touch(p, bytes, kWrite, SITE);
}

// platform.h gives memcpy and memset of the kernels these names.
void* tilewright_emulated_memcpy(void* to, const void* from, size_t bytes) {
  touch(from, bytes, kRead, SITE);
  touch(to, bytes, kWrite, SITE);
  return std::memcpy(to, from, bytes);
}

void* tilewright_emulated_memset(void* to, int value, size_t bytes) {
  touch(to, bytes, kWrite, SITE);
  return std::memset(to, value, bytes);
}

}  // extern "C"
