// Copies a strip of a matrix into the order in which the micro-kernel reads it, converted to fp32.
#pragma once

#include "walk.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// panel[kk·width + i] = source[i·step + kk·k_step] for i < valid, and 0 for valid <= i < width.
//
// Whichever of the two dimensions is contiguous is read in vectors; along k that takes a transposition in
// registers. Zeros only fill lanes that are never stored, so what they meet (Inf·0) does not matter.
template <class T>
void pack_panel(float* panel, const T* source, int64_t step, int64_t k_step, int width, int valid,
                int64_t k) {
  if (step == 1 || valid == 1) {
    for (int64_t kk = 0; kk < k; ++kk) {
      for (int i = 0; i < width; i += kLanes) {
        const T* from = source + kk * k_step + i;
        store_upto(panel + kk * width + i, i < valid ? load_upto(from, valid - i) : zero(), width - i);
      }
    }
    return;
  }
  if (k_step == 1) {
    for (int i = 0; i < width; i += kLanes) {
      for (int64_t kk = 0; kk < k; kk += kLanes) {
        const int columns = static_cast<int>(min(kLanes, k - kk));
        vf rows[kLanes];
        TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
          const T* from = source + (i + lane) * step + kk;
          rows[lane] = i + lane < valid ? load_upto(from, columns) : zero();
        }
        transpose(rows);
        float* to = panel + kk * width + i;
        if (columns == kLanes && width - i >= kLanes) {
          TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) store(to + lane * width, rows[lane]);
        } else {
          TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
            if (lane < columns) store_upto(to + lane * width, rows[lane], width - i);
          }
        }
      }
    }
    return;
  }
  for (int64_t kk = 0; kk < k; ++kk) {
    for (int i = 0; i < width; i += kLanes) {
      const vf value = i < valid ? load_strided(source + i * step + kk * k_step, step, valid - i) : zero();
      store_upto(panel + kk * width + i, value, width - i);
    }
  }
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
