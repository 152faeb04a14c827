// What a test sets and reads: how the emulator runs kernels, which memory they may touch, what it found.
// Plain C++ without CUDA headers, for the bindings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tilewright::emulator {

// When an asynchronous copy's data arrives.
enum class Completion : int {
  deferred,  // at the last moment that a wait allows
  eager,     // at once
  random,    // either, drawn for each copy
};

struct Options {
  uint64_t seed = 0;  // 0: blocks in their natural order; else they too are drawn from it
  Completion completion = Completion::deferred;
  bool checks = true;           // races, bounds, uninitialised reads, alignment
  bool bank_conflicts = false;  // count them; costs about as much again
};

void set_options(const Options& options);
Options options();

enum class Kind : int {
  race,           // two accesses, one a write, that nothing orders
  out_of_bounds,  // memory that the launch did not name, or beyond its end
  uninitialised,  // read before anything wrote it
  misaligned,     // an address its access cannot have
  divergence,     // lanes of a warp at different operations, wrong masks, operands not uniform
  barrier,        // a barrier used against its rules: counts, ids, mixtures
  deadlock,       // no thread can go on
  asynchronous,   // an asynchronous operation used against its rules
  launch,         // a launch that a device would refuse or that it could not finish
  undefined,      // C++ leaves the outcome open: overflow of a signed index, a shift too far
};
inline constexpr int kKinds = 10;
const char* name(Kind kind);

struct Report {
  Kind kind;
  std::string kernel;
  unsigned block[3];
  unsigned thread;       // in its block
  std::string where;     // file:line of the access or call
  std::string text;      // what happened, with both accesses of a race
  uint64_t occurrences;  // of the same kind at the same places
};

// What was found since the last call. Looks up source lines, so it takes a while.
std::vector<Report> take_reports();

// Since the last reset().
struct Counters {
  uint64_t errors[kKinds];  // occurrences by kind
  uint64_t launches;
  uint64_t blocks;
  uint64_t switches;        // of fibers
  uint64_t slot_overflows;  // a memory cell had more readers than the detector remembers
  uint64_t ldmatrix_conflicts, stmatrix_conflicts, copy_conflicts;  // extra passes over the banks
  uint64_t vector_conflicts, scalar_conflicts;                      // the same, ordinary accesses
  uint64_t mma;                                                     // warp-wide multiplications
};
Counters counters();
void reset();  // counters and reports, not options or buffers

// Global memory that kernels may touch: nothing else is.
enum class Use : int {
  input,   // initialised, must not be written
  output,  // nothing in it yet: reading before writing is an error
  in_out,
};
void register_buffer(const void* address, size_t bytes, Use use, const std::string& name);
void unregister_buffer(const void* address);
void unregister_all_buffers();

// A buffer for as long as a scope lasts.
class RegisteredBuffer {
 public:
  RegisteredBuffer(const void* address, size_t bytes, Use use, const std::string& name) : address_(address) {
    register_buffer(address, bytes, use, name);
  }
  ~RegisteredBuffer() {
    unregister_buffer(address_);
  }
  RegisteredBuffer(const RegisteredBuffer&) = delete;
  RegisteredBuffer& operator=(const RegisteredBuffer&) = delete;

 private:
  const void* address_;
};

}  // namespace tilewright::emulator
