#include "emulator/report.h"

#include <cstdio>
#include <map>
#include <tuple>

#include "emulator/scheduler.h"
#include "emulator/symbols.h"

namespace tilewright::emulator {

Counters counted{};

namespace {

constexpr size_t kKept = 64;  // distinct reports: a broken kernel has thousands of the same few

struct Kept {
  Report report;
  Site site;
  Site kernel;
};

struct Reports {
  std::map<std::tuple<Kind, Site, Site>, size_t> index;
  std::vector<Kept> kept;
};

Reports& reports() {
  static Reports instance;
  return instance;
}

Site running_kernel = nullptr;

}  // namespace

const char* name(Kind kind) {
  static const char* const names[kKinds] = {"race",       "out of bounds", "uninitialised", "misaligned",
                                            "divergence", "barrier",       "deadlock",      "asynchronous",
                                            "launch",     "undefined"};
  return names[static_cast<int>(kind)];
}

void set_kernel(Site kernel) {
  running_kernel = kernel;
}

bool seen(Kind kind, Site site, Site other) {
  Reports& all = reports();
  const auto found = all.index.find(std::make_tuple(kind, site, other));
  if (found == all.index.end() && all.kept.size() < kKept) return false;
  ++counted.errors[static_cast<int>(kind)];
  if (found != all.index.end()) ++all.kept[found->second].report.occurrences;
  return true;
}

void report(Kind kind, Site site, const std::string& text, Site other) {
  if (seen(kind, site, other)) return;
  ++counted.errors[static_cast<int>(kind)];
  Reports& all = reports();
  all.index[std::make_tuple(kind, site, other)] = all.kept.size();
  Report made{};
  made.kind = kind;
  made.text = text;
  made.occurrences = 1;
  if (current != nullptr) {
    made.block[0] = current->block->index.x;
    made.block[1] = current->block->index.y;
    made.block[2] = current->block->index.z;
    made.thread = current->index;
  }
  all.kept.push_back({made, site, running_kernel});
}

void fail(Kind kind, Site site, const std::string& text) {
  report(kind, site, text);
  abandon();
}

std::vector<Report> take_reports() {
  Reports& all = reports();
  Symbols symbols;
  for (const Kept& kept : all.kept) {
    symbols.want(kept.site);
    symbols.want(kept.kernel);
    symbols.want_marks(kept.report.text);
  }
  std::vector<Report> taken;
  for (Kept& kept : all.kept) {
    kept.report.kernel = symbols.function(kept.kernel);
    kept.report.where = symbols.line(kept.site);
    kept.report.text = symbols.fill(kept.report.text);
    taken.push_back(std::move(kept.report));
  }
  all.kept.clear();
  all.index.clear();
  return taken;
}

Counters counters() {
  return counted;
}

void reset() {
  counted = {};
  reports() = {};
}

}  // namespace tilewright::emulator
