// emulator_tests list
// emulator_tests run CASE [--mutation NAME] [--seed FIRST] [--seeds COUNT] [--completion MODE]
// [--bank-conflicts] Prints JSON: what test_*.py read.
#include <cstdlib>
#include <iostream>

#include "harness.h"

using namespace tilewright;

namespace harness {

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

}  // namespace harness

namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + "\"";
}

void list() {
  std::cout << "{";
  const char* comma = "";
  for (const harness::Case& c : harness::cases()) {
    std::cout << comma << quoted(c.name) << ": [";
    for (size_t i = 0; i < c.mutations.size(); ++i) {
      std::cout << (i != 0 ? ", " : "") << quoted(c.mutations[i]);
    }
    std::cout << "]";
    comma = ", ";
  }
  std::cout << "}\n";
}

int usage(const std::string& wrong) {
  std::cerr << "emulator_tests: " << wrong << "\n";
  return 2;
}

int run(int argc, char** argv) {
  const harness::Case* chosen = nullptr;
  for (const harness::Case& c : harness::cases()) {
    if (std::string(argv[2]) == c.name) chosen = &c;
  }
  if (chosen == nullptr) return usage(std::string("no case ") + argv[2]);
  int mutation = 0;
  uint64_t first = 0;
  uint64_t count = 1;
  emulator::Options options;
  for (int i = 3; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--bank-conflicts" || flag == "--no-checks") {
      (flag == "--no-checks" ? options.checks : options.bank_conflicts) = flag != "--no-checks";
      continue;
    }
    if (++i >= argc) return usage(flag + " needs a value");
    const std::string value = argv[i];
    if (flag == "--seed") {
      first = std::strtoull(value.c_str(), nullptr, 10);
    } else if (flag == "--seeds") {
      count = std::strtoull(value.c_str(), nullptr, 10);
    } else if (flag == "--completion") {
      options.completion = value == "eager"    ? emulator::Completion::eager
                           : value == "random" ? emulator::Completion::random
                                               : emulator::Completion::deferred;
    } else if (flag == "--mutation") {
      for (size_t m = 0; m < chosen->mutations.size(); ++m) {
        if (value == chosen->mutations[m]) mutation = static_cast<int>(m) + 1;
      }
      if (mutation == 0) return usage("no mutation " + value);
    } else {
      return usage("what is " + flag);
    }
  }
  bool right = true;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    options.seed = seed;
    emulator::set_options(options);
    right &= chosen->run(mutation);
  }
  const emulator::Counters counters = emulator::counters();
  std::cout << "{\"right\": " << (right ? "true" : "false") << ", \"errors\": {";
  for (int kind = 0; kind < emulator::kKinds; ++kind) {
    std::cout << (kind != 0 ? ", " : "") << quoted(emulator::name(static_cast<emulator::Kind>(kind))) << ": "
              << counters.errors[kind];
  }
  std::cout << "}, \"slot_overflows\": " << counters.slot_overflows << ", \"launches\": " << counters.launches
            << ", \"ldmatrix_conflicts\": " << counters.ldmatrix_conflicts
            << ", \"stmatrix_conflicts\": " << counters.stmatrix_conflicts
            << ", \"copy_conflicts\": " << counters.copy_conflicts
            << ", \"vector_conflicts\": " << counters.vector_conflicts
            << ", \"scalar_conflicts\": " << counters.scalar_conflicts << ", \"reports\": [";
  const char* comma = "";
  for (const emulator::Report& report : emulator::take_reports()) {
    std::cout << comma << "{\"kind\": " << quoted(emulator::name(report.kind))
              << ", \"kernel\": " << quoted(report.kernel) << ", \"block\": [" << report.block[0] << ", "
              << report.block[1] << ", " << report.block[2] << "], \"thread\": " << report.thread
              << ", \"where\": " << quoted(report.where) << ", \"text\": " << quoted(report.text)
              << ", \"occurrences\": " << report.occurrences << "}";
    comma = ", ";
  }
  std::cout << "]}\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "list") {
    list();
    return 0;
  }
  if (argc >= 3 && std::string(argv[1]) == "run") return run(argc, argv);
  return usage("expected list, or run CASE");
}
