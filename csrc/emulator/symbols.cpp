#include "emulator/symbols.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "emulator/report.h"

namespace tilewright::emulator {
namespace {

constexpr char kOpen[] = "{@";  // a mark is {@address}

struct Module {
  std::string path;
  std::vector<Site> sites;
  std::vector<uintptr_t> offsets;
};

// The address to look up is that of the call, not of what follows it.
uintptr_t before(Site site) {
  return reinterpret_cast<uintptr_t>(site) - 1;
}

std::string base_name(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

std::string read_line(FILE* pipe) {
  std::string line;
  for (int c = fgetc(pipe); c != EOF && c != '\n'; c = fgetc(pipe)) line.push_back(static_cast<char>(c));
  return line;
}

// Is this a line of the kernels, not of the headers that give them their vocabulary?
bool is_wrapper(const std::string& line) {
  return line.find("csrc/emulator/") != std::string::npos || line.rfind("??", 0) == 0;
}

std::string shortened(std::string line) {
  const size_t note = line.find(" (");  // "(discriminator 3)"
  if (note != std::string::npos) line.resize(note);
  return base_name(line);
}

std::string program() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  return length <= 0 ? std::string() : std::string(path, static_cast<size_t>(length));
}

}  // namespace

std::string mark(Site site) {
  char text[32];
  std::snprintf(text, sizeof(text), "{@%p}", site);
  return text;
}

void Symbols::want(Site site) {
  if (site != nullptr) entries_.try_emplace(site);
}

void Symbols::want_marks(const std::string& text) {
  for (size_t at = text.find(kOpen); at != std::string::npos; at = text.find(kOpen, at + 1)) {
    want(reinterpret_cast<Site>(std::strtoull(text.c_str() + at + 2, nullptr, 16)));
  }
}

void Symbols::look_up() {
  looked_up_ = true;
  std::map<std::string, Module> modules;
  for (auto& [site, entry] : entries_) {
    Dl_info info{};
    link_map* map = nullptr;
    if (dladdr1(reinterpret_cast<void*>(before(site)), &info, reinterpret_cast<void**>(&map),
                RTLD_DL_LINKMAP) == 0) {
      entry = {"?", "?"};
      continue;
    }
    // A program that is not position independent is loaded where it was linked: l_addr is zero then.
    const uintptr_t offset = before(site) - map->l_addr;
    std::string path = map->l_name;
    if (path.empty()) path = program();
    char text[64];
    std::snprintf(text, sizeof(text), "+0x%zx", static_cast<size_t>(offset));
    entry = {info.dli_sname != nullptr ? info.dli_sname : base_name(path) + text, base_name(path) + text};
    Module& module = modules[path];
    module.path = path;
    module.sites.push_back(site);
    module.offsets.push_back(offset);
  }
  for (auto& [path, module] : modules) {
    std::string command = "addr2line -a -i -f -C -e '" + path + "'";
    for (const uintptr_t offset : module.offsets) {
      char text[32];
      std::snprintf(text, sizeof(text), " 0x%zx", static_cast<size_t>(offset));
      command += text;
    }
    FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
    if (pipe == nullptr) continue;
    // For each address its echo, then pairs of function and line, the innermost inlined one first.
    std::string line = read_line(pipe);
    for (const Site site : module.sites) {
      if (line.rfind("0x", 0) != 0) break;
      std::vector<Entry> frames;
      for (line = read_line(pipe); !line.empty() && line.rfind("0x", 0) != 0; line = read_line(pipe)) {
        frames.push_back({line, read_line(pipe)});
      }
      Entry& entry = entries_[site];
      std::string chain;
      int shown = 0;
      for (const Entry& frame : frames) {
        if (is_wrapper(frame.line)) continue;
        if (shown == 0) entry.function = frame.function;
        if (++shown <= 3) chain += (chain.empty() ? "" : " < ") + shortened(frame.line);
      }
      if (shown != 0) entry.line = chain;
      if (shown == 0 && !frames.empty() && frames[0].function != "??") entry.function = frames[0].function;
    }
    pclose(pipe);
  }
}

std::string Symbols::line(Site site) {
  if (!looked_up_) look_up();
  const auto found = entries_.find(site);
  return found == entries_.end() ? std::string("?") : found->second.line;
}

std::string Symbols::function(Site site) {
  if (!looked_up_) look_up();
  const auto found = entries_.find(site);
  return found == entries_.end() ? std::string("?") : found->second.function;
}

std::string Symbols::fill(const std::string& text) {
  std::string filled;
  size_t from = 0;
  for (size_t at = text.find(kOpen); at != std::string::npos; at = text.find(kOpen, from)) {
    filled += text.substr(from, at - from);
    filled += line(reinterpret_cast<Site>(std::strtoull(text.c_str() + at + 2, nullptr, 16)));
    const size_t end = text.find('}', at);
    from = end == std::string::npos ? text.size() : end + 1;
  }
  return filled + text.substr(from);
}

}  // namespace tilewright::emulator
