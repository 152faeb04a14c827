// The problems that hopper_gemm.cu is run with.
#include <algorithm>

#include "harness.h"
#include "hopper_gemm.h"

using namespace tilewright;
using emulator::Use;
using harness::Global;
using hopper_gemm::Bug;
using hopper_gemm::Problem;

namespace {

uint16_t bits_of(float value, bool half) {
  return half ? __half_as_ushort(__float2half(value)) : __bfloat16_as_ushort(__float2bfloat16(value));
}

// Not instrumented and optimised, for it took longer than the kernel. B as k x n here.
[[gnu::no_sanitize("thread"), gnu::optimize("O3")]] void add_products(float* sums, const float* row,
                                                                      const float* b, int n, int k) {
  for (int q = 0; q < k; ++q) {
    for (int j = 0; j < n; ++j) sums[j] += row[q] * b[q * n + j];
  }
}

bool is_product(const Problem& p, const float* a, const float* b, const uint16_t* c) {
  bool right = true;
  std::vector<float> sums(static_cast<size_t>(p.n));
  for (int i = 0; i < p.m; ++i) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    add_products(sums.data(), a + i * p.k, b, p.n, p.k);
    for (int j = 0; j < p.n; ++j) right &= c[i * p.n + j] == bits_of(sums[static_cast<size_t>(j)], p.is_half);
  }
  return right;
}

// c (m x n) = a b; a is m x k, or k x m, b n x k, or k x n.
bool run(const Problem& p, Bug bug) {
  const auto m = static_cast<size_t>(p.m), n = static_cast<size_t>(p.n), k = static_cast<size_t>(p.k);
  Global<uint16_t> a(m * k, Use::input, "a"), b(n * k, Use::input, "b"), c(m * n, Use::output, "c");
  std::vector<float> a_values(m * k), b_values(n * k);
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < k; ++j) {
      a_values[i * k + j] = harness::whole(static_cast<uint32_t>(i * k + j));
      a[p.a_mn_major ? j * m + i : i * k + j] = bits_of(a_values[i * k + j], p.is_half);
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < k; ++j) {
      b_values[j * n + i] = harness::whole(static_cast<uint32_t>(i * k + j + 77777));
      b[p.b_mn_major ? j * n + i : i * k + j] = bits_of(b_values[j * n + i], p.is_half);
    }
  }
  launch(p, bug, a.data(), b.data(), c.data());
  return is_product(p, a_values.data(), b_values.data(), c.data());
}

struct Named {
  const char* name;
  Bug bug;
};

const std::vector<Named> kBugs = {{"early_release", Bug::early_release},
                                  {"release_too_soon", Bug::release_too_soon},
                                  {"few_arrivals", Bug::few_arrivals},
                                  {"many_arrivals", Bug::many_arrivals},
                                  {"few_bytes", Bug::few_bytes},
                                  {"many_bytes", Bug::many_bytes},
                                  {"consumer_parity", Bug::consumer_parity},
                                  {"producer_parity", Bug::producer_parity},
                                  {"no_flip", Bug::no_flip},
                                  {"stage_reuse", Bug::stage_reuse},
                                  {"no_full_wait", Bug::no_full_wait},
                                  {"load_after_arrival", Bug::load_after_arrival},
                                  {"no_init_fence", Bug::no_init_fence},
                                  {"no_init_sync", Bug::no_init_sync},
                                  {"init_twice", Bug::init_twice},
                                  {"no_fence", Bug::no_fence},
                                  {"no_fence_again", Bug::no_fence_again},
                                  {"no_wait", Bug::no_wait},
                                  {"wait_too_few", Bug::wait_too_few},
                                  {"no_commit", Bug::no_commit},
                                  {"write_after_fence", Bug::write_after_fence},
                                  {"write_in_flight", Bug::write_in_flight},
                                  {"read_in_flight", Bug::read_in_flight},
                                  {"warp_stays_away", Bug::warp_stays_away},
                                  {"other_descriptor", Bug::other_descriptor},
                                  {"stride", Bug::stride},
                                  {"short_stride", Bug::short_stride},
                                  {"k_advance", Bug::k_advance},
                                  {"divergent_wgmma", Bug::divergent_wgmma},
                                  {"exit_in_flight", Bug::exit_in_flight},
                                  {"too_many_registers", Bug::too_many_registers},
                                  {"no_proxy_fence", Bug::no_proxy_fence},
                                  {"one_lane_fences", Bug::one_lane_fences},
                                  {"fence_after_barrier", Bug::fence_after_barrier},
                                  {"no_store_barrier", Bug::no_store_barrier},
                                  {"no_wait_read", Bug::no_wait_read},
                                  {"no_refill_barrier", Bug::no_refill_barrier},
                                  {"no_store_commit", Bug::no_store_commit},
                                  {"no_last_wait", Bug::no_last_wait},
                                  {"misaligned_tile", Bug::misaligned_tile},
                                  {"outside_shared", Bug::outside_shared}};
const std::vector<Named> kMnMajorBugs = {
    {"leading", Bug::leading}, {"stride", Bug::stride}, {"short_stride", Bug::short_stride}};
const std::vector<Named> kClusterBugs = {{"narrow_mask", Bug::narrow_mask},
                                         {"wide_mask", Bug::wide_mask},
                                         {"local_release", Bug::local_release},
                                         {"no_cluster_init_sync", Bug::no_cluster_init_sync},
                                         {"no_cluster_exit_sync", Bug::no_cluster_exit_sync},
                                         {"wrong_rank", Bug::wrong_rank}};

const Problem kPlain{.m = 256, .n = 128, .k = 256, .blocks = 1};
const Problem kRagged{.m = 200, .n = 136, .k = 168, .blocks = 3};
const Problem kHalf{.m = 128, .n = 128, .k = 128, .is_half = true};
const Problem kMnMajor{.m = 256, .n = 128, .k = 192, .a_mn_major = true, .b_mn_major = true};
const Problem kMixed{.m = 136, .n = 200, .k = 128, .b_mn_major = true};
const Problem kOtherMixed{.m = 256, .n = 128, .k = 128, .a_mn_major = true};
const Problem kCluster{.m = 256, .n = 256, .k = 256, .cluster = 2};
const Problem kTwoClusters{.m = 512, .n = 128, .k = 128, .cluster = 2, .blocks = 4};
const Problem kClusterRagged{.m = 200, .n = 200, .k = 136, .cluster = 2, .b_mn_major = true};

template <const Problem& problem, const std::vector<Named>& bugs>
bool run_named(int mutation) {
  return run(problem, mutation == 0 ? Bug::none : bugs[static_cast<size_t>(mutation) - 1].bug);
}

template <const Problem& problem>
bool run_plain(int) {
  return run(problem, Bug::none);
}

std::vector<const char*> names(const std::vector<Named>& bugs) {
  std::vector<const char*> all;
  for (const Named& bug : bugs) all.push_back(bug.name);
  return all;
}

const harness::Registration kCases[] = {
    harness::Registration({"hopper_gemm", names(kBugs), run_named<kPlain, kBugs>}),
    harness::Registration({"hopper_gemm_mn_major", names(kMnMajorBugs), run_named<kMnMajor, kMnMajorBugs>}),
    harness::Registration({"hopper_gemm_cluster", names(kClusterBugs), run_named<kCluster, kClusterBugs>}),
    harness::Registration({"hopper_gemm_ragged", {}, run_plain<kRagged>}),
    harness::Registration({"hopper_gemm_half", {}, run_plain<kHalf>}),
    harness::Registration({"hopper_gemm_b_mn_major", {}, run_plain<kMixed>}),
    harness::Registration({"hopper_gemm_a_mn_major", {}, run_plain<kOtherMixed>}),
    harness::Registration({"hopper_gemm_two_clusters", {}, run_plain<kTwoClusters>}),
    harness::Registration({"hopper_gemm_cluster_ragged", {}, run_plain<kClusterRagged>}),
};

}  // namespace
