// The GEMM of hopper_gemm.cu, and what can be wrong with it.
#pragma once

#include <cstdint>

namespace hopper_gemm {

// What is wrong with the kernel.
enum class Bug : int {
  none,
  // the ring of shared-memory stages
  early_release,       // consumers give a stage back before their wgmma has read it
  release_too_soon,    // ... while the last but one is still being read
  few_arrivals,        // the empty barriers count one arrival too few
  many_arrivals,       // ... one too many
  few_bytes,           // less announced than lands
  many_bytes,          // more announced than lands
  consumer_parity,     // consumers wait for the phase before
  producer_parity,     // so does the producer
  no_flip,             // consumers do not flip the parity when the ring wraps
  stage_reuse,         // the producer does not wait for its stage
  no_full_wait,        // consumers do not wait for theirs
  load_after_arrival,  // the expectation names the wrong barrier's stage
  // barriers' initialisation
  no_init_fence,
  no_init_sync,
  init_twice,
  // wgmma
  no_fence,        // never fenced
  no_fence_again,  // fenced before the first tile only
  no_wait,         // sums are read without waiting
  wait_too_few,    // one group stays in flight at the end
  no_commit,
  write_after_fence,  // a sum is changed between fence and wgmma
  write_in_flight,    // a sum is changed while in flight
  read_in_flight,     // a sum is read while in flight
  warp_stays_away,    // one warp of four does not multiply
  other_descriptor,   // one warp multiplies other rows of B
  stride,             // a descriptor's stride is twice too long
  short_stride,       // ... half a group of rows
  k_advance,          // the k-step inside the span is twice too long
  leading,            // MN-major: the panels' distance is wrong
  divergent_wgmma,    // half a warp calls
  exit_in_flight,
  too_many_registers,
  // TMA store
  no_proxy_fence,  // sums are stored to shared memory without a fence
  one_lane_fences,
  fence_after_barrier,
  no_store_barrier,   // the storing thread does not wait for the others
  no_wait_read,       // the buffer is refilled while the store reads it
  no_refill_barrier,  // the others do not wait for the thread that waited
  no_store_commit,
  no_last_wait,
  // addresses
  misaligned_tile,
  outside_shared,
  // cluster
  narrow_mask,           // multicast reaches the own block only
  wide_mask,             // ... a block that does not exist
  local_release,         // the other block is not told that its stage is free
  no_cluster_init_sync,  // only the block waits for the barriers' initialisation
  no_cluster_exit_sync,
  wrong_rank,  // releases a block that does not exist
  count,
};

struct Problem {
  int m, n, k;
  int cluster = 1;
  bool a_mn_major = false, b_mn_major = false;  // A given as K x M, B as K x N
  bool is_half = false;
  int blocks = 2;  // resident in all: fewer than tiles, so that each works on several
};

// c (m x n, 16-bit) = a b; the operands as `problem` says, all dense.
void launch(const Problem& p, Bug bug, const uint16_t* a, const uint16_t* b, uint16_t* c);

}  // namespace hopper_gemm
