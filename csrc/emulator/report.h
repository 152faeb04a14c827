// How findings are recorded. See control.h for what a test gets.
#pragma once

#include <string>

#include "emulator/block.h"
#include "emulator/control.h"

namespace tilewright::emulator {

// Counts one occurrence; the text is kept for the first with this kind at these two places. The kernel goes
// on. `site` is in the kernel's code; null: where the current thread waits.
void report(Kind kind, Site site, const std::string& text, Site other = nullptr);

// Whether that was reported already; counts the occurrence then. Spares building the text.
bool seen(Kind kind, Site site, Site other = nullptr);

// The same as report() where the kernel cannot go on: ends the launch.
[[noreturn]] void fail(Kind kind, Site site, const std::string& text);

// The kernel that reports name until the next call.
void set_kernel(Site kernel);

extern Counters counted;

// How a text names a place of the kernel's code: looked up only when the report is taken.
std::string mark(Site site);

}  // namespace tilewright::emulator
