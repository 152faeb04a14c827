// Runs a body on a team of threads whose size the caller names.
#pragma once

#include <cstddef>

namespace tilewright {

// body(context, thread, team) runs once for each thread < team. The team may be smaller than `threads`
// (nested regions, OMP_THREAD_LIMIT, a build without OpenMP), so a body divides its work by `team`.
using ParallelBody = void (*)(void* context, int thread, int team);
void parallel(int threads, ParallelBody body, void* context);

// Waits until every thread of the team is here. To be called by all threads of a body, `team` as it was
// given.
void barrier(int team);

bool built_with_openmp();

// 64-byte aligned scratch memory of the calling thread, reused from call to call because fresh pages cost a
// fault for every 4 KB. Throws std::bad_alloc. The contents are undefined.
void* workspace(size_t bytes);

// Asks for 2 MB pages where memory that nobody has written yet holds any: a stream through a large weight
// otherwise needs a new translation for every 4 KB.
void prefer_huge_pages(void* memory, size_t bytes);

}  // namespace tilewright
