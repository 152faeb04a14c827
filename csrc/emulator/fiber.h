// Fibers: each thread of a block is one, so that a block of 384 threads costs no operating system thread.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) || defined(TILEWRIGHT_UCONTEXT)
#define TILEWRIGHT_FIBERS_UCONTEXT 1
#include <ucontext.h>
#else
#define TILEWRIGHT_FIBERS_UCONTEXT 0
#endif

namespace tilewright::emulator {

// A stack and where it was left. The program's own stack is a Fiber too, without memory of its own.
struct Fiber {
  unsigned char* low = nullptr;  // the stack is [low, low + bytes)
  size_t bytes = 0;
#if TILEWRIGHT_FIBERS_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
};

// Gives `fiber` a stack with a page below it that faults. `colour` spreads the tops of many stacks over the
// cache: all at one offset of their pages, they would evict one another.
void allocate_stack(Fiber& fiber, unsigned colour);
void free_stack(Fiber& fiber);

// The next switch to `fiber` calls `entry`, which must never return.
void prepare(Fiber& fiber, unsigned colour, void (*entry)());

void switch_fiber(Fiber& from, Fiber& to);

}  // namespace tilewright::emulator
