#include "cpu/probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>

#include "cpu/threads.h"
#include "instances.h"

namespace tilewright {

namespace {

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

constexpr int kMaxThreads = 1024;

// Repeats `region` for about `seconds`, at least three times, and returns the highest rate. The best and not
// the mean: a probe that another process disturbed says nothing about the machine.
template <class Region>
double best_rate(double seconds, Region region) {
  const double end = now() + seconds;
  double best = 0;
  for (int round = 0; round < 3 || now() < end; ++round) {
    const double start = now();
    const double amount = region();
    best = std::max(best, amount / (now() - start));
  }
  return best;
}

struct MultiplyJob {
  double (*multiply)(int64_t);
  int64_t rounds;
  double flops[kMaxThreads];
};

struct ReadJob {
  const IsaKernels* isa;
  float* data;
  size_t count;
  bool fill;
  float sums[kMaxThreads];
};

void multiply_body(void* context, int thread, int) {
  auto& job = *static_cast<MultiplyJob*>(context);
  job.flops[thread] = job.multiply(job.rounds);
}

void read_body(void* context, int thread, int team) {
  auto& job = *static_cast<ReadJob*>(context);
  const size_t first = job.count / team * thread;
  const size_t count = job.count / team;
  if (job.fill) {
    std::fill_n(job.data + first, count, 1.0f);
  } else {
    job.sums[thread] = job.isa->probe->read(job.data + first, count);
  }
}

}  // namespace

double peak_flops(const IsaKernels& isa, bool bf16_units, int threads, double seconds) {
  MultiplyJob job{};
  job.multiply = bf16_units ? isa.probe->multiply_bf16 : isa.probe->multiply_f32;
  job.rounds =
      200'000;  // about a millisecond: far above the cost of a parallel region, far below a time slice
  return best_rate(seconds, [&] {
    std::fill_n(job.flops, threads, 0.0);
    parallel(threads, multiply_body, &job);
    double flops = 0;
    for (int i = 0; i < threads; ++i) flops += job.flops[i];
    return flops;
  });
}

double read_bandwidth(const IsaKernels& isa, int threads, size_t bytes, double seconds) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(kHugePage, rounded), std::free);
  if (memory == nullptr) throw std::bad_alloc();
  prefer_huge_pages(memory.get(), rounded);
  ReadJob job{};
  job.isa = &isa;
  job.data = static_cast<float*>(memory.get());
  job.count = bytes / sizeof(float);
  job.fill = true;
  parallel(threads, read_body, &job);  // fresh pages are all one zero page until they are written
  job.fill = false;
  return best_rate(seconds, [&] {
    parallel(threads, read_body, &job);
    return static_cast<double>(bytes);
  });
}

}  // namespace tilewright
