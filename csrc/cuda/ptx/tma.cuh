// The Tensor Memory Accelerator: boxes of tensors between global and shared memory, started by one thread and
// done by nobody's registers. Coordinates count elements, the contiguous dimension first. sm_90.
#pragma once

#include "cuda/platform.cuh"
#include "cuda/ptx/address.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/tensor_map.h"

#if TILEWRIGHT_EMULATED

#include "emulator/ptx/tma.h"

#else

namespace tilewright::ptx {

using cuda::TensorMap;

TILEWRIGHT_DEVICE void tma_prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Loads count their bytes, the zeros outside the tensor included, on `barrier` when they land.
TILEWRIGHT_DEVICE void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1,
                                int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2,
                                int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2,
                                int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

// The same box into every block of the cluster whose bit is set in `block_mask`: at the same place of its
// shared memory, its bytes counted on the barrier at the same place.
TILEWRIGHT_DEVICE void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier,
                                          uint16_t block_mask, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "h"(block_mask), "r"(c0), "r"(c1)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier,
                                          uint16_t block_mask, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%4, %5, %6}], [%2], %3;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "h"(block_mask), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier,
                                          uint16_t block_mask, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "h"(block_mask), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_load_multicast(void* shared, const TensorMap* map, Mbarrier* barrier,
                                          uint16_t block_mask, int c0, int c1, int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%4, %5, %6, %7, %8}], [%2], %3;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "h"(block_mask), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

// A column of pixels from (c, w, h, n) on, each moved by the filter tap's offset.
TILEWRIGHT_DEVICE void tma_load_im2col(void* shared, const TensorMap* map, Mbarrier* barrier, int c, int w,
                                       int h, int n, uint16_t offset_w, uint16_t offset_h) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n), "h"(offset_w), "h"(offset_h)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_load_im2col_multicast(void* shared, const TensorMap* map, Mbarrier* barrier,
                                                 uint16_t block_mask, int c, int w, int h, int n,
                                                 uint16_t offset_w, uint16_t offset_h) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8}, %9;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n), "h"(offset_w), "h"(offset_h),
      "h"(block_mask)
      : "memory");
}

// Stores join the calling thread's open group; the same thread closes groups and waits for them.
TILEWRIGHT_DEVICE void tma_store(const TensorMap* map, const void* shared, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
               "r"(shared_address(shared)), "r"(c0), "r"(c1)
               : "memory");
}

TILEWRIGHT_DEVICE void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
      "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2, int c3,
                                 int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(
          map),
      "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

TILEWRIGHT_DEVICE void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until at most n of this thread's groups still have to read shared memory.
template <int n>
TILEWRIGHT_DEVICE void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(n) : "memory");
}

// Until at most n of this thread's groups still have to be written.
template <int n>
TILEWRIGHT_DEVICE void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(n) : "memory");
}

}  // namespace tilewright::ptx

#endif
