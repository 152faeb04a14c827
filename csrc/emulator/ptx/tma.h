// The emulator's side of cuda/ptx/tma.cuh.
#pragma once

#include <cstdint>

#include "cuda/tensor_map.h"
#include "emulator/ptx/barrier.h"

namespace tilewright::ptx {

using cuda::TensorMap;

void tma_prefetch(const TensorMap* map);

void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1);
void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2);
void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2, int c3);
void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2, int c3, int c4);

void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask, int c0,
                        int c1);
void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask, int c0,
                        int c1, int c2);
void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask, int c0,
                        int c1, int c2, int c3);
void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask, int c0,
                        int c1, int c2, int c3, int c4);

void tma_load_im2col(void* shared, const TensorMap* map, Mbarrier* barrier, int c, int w, int h, int n,
                     uint16_t offset_w, uint16_t offset_h);
void tma_load_im2col_multicast(void* shared, const TensorMap* map, Mbarrier* barrier, uint16_t block_mask,
                               int c, int w, int h, int n, uint16_t offset_w, uint16_t offset_h);

void tma_store(const TensorMap* map, const void* shared, int c0, int c1);
void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2);
void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2, int c3);
void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2, int c3, int c4);
void tma_store_commit();

}  // namespace tilewright::ptx

namespace tilewright::emulator {

// Waits until at most `n` of the thread's committed groups are unread, or unwritten.
void wait_for_stores(int n, bool read_only);

}  // namespace tilewright::emulator

namespace tilewright::ptx {

template <int n>
[[gnu::always_inline]] inline void tma_store_wait_read() {
  emulator::wait_for_stores(n, true);
}

template <int n>
[[gnu::always_inline]] inline void tma_store_wait() {
  emulator::wait_for_stores(n, false);
}

}  // namespace tilewright::ptx
