// Copies parts of matrices into the order in which the micro-kernel reads them: panels of B, rows of A.
#pragma once

#include "cpu/ranges.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// Where a walk over rows of k elements, kLanes rows side by side, will be `ahead` elements later:
// in the same rows or, past their end, in the next ones. Each row is a stream of its own and often a short
// one, too short for the hardware to follow.
TW_INLINE int64_t walk_ahead(int64_t kk, int64_t ahead, int64_t k, int64_t step) {
  const int64_t later = kk + ahead;
  return later < k ? later : later - k + kLanes * step;
}

constexpr int64_t kFetchAhead = 512;  // bytes

// panel[kk·width + i] = source[i·step + kk·k_step] for i < valid, and 0 for valid <= i < width, converted
// from From to To.
//
// Whichever of the two dimensions is contiguous is read in vectors; along k that takes a transposition in
// registers. Zeros only fill lanes that are never stored, so what they meet (Inf·0) does not matter.
template <class To, class From>
void pack_panel(To* panel, const From* source, int64_t step, int64_t k_step, int width, int valid,
                int64_t k) {
  if (step == 1 || valid == 1) {
    for (int64_t kk = 0; kk < k; ++kk) {
      for (int i = 0; i < width; i += kLanes) {
        const From* from = source + kk * k_step + i;
        store_upto(panel + kk * width + i, i < valid ? load_upto(from, valid - i) : zero(), width - i);
      }
    }
    return;
  }
  if (k_step == 1) {
    for (int i = 0; i < width; i += kLanes) {
      for (int64_t kk = 0; kk < k; kk += kLanes) {
        const int columns = static_cast<int>(min(kLanes, k - kk));
        const From* later = source + i * step + walk_ahead(kk, kFetchAhead / sizeof(From), k, step);
        vf rows[kLanes];
        TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
          __builtin_prefetch(later + lane * step, 0, 2);
          const From* from = source + (i + lane) * step + kk;
          rows[lane] = i + lane < valid ? load_upto(from, columns) : zero();
        }
        transpose(rows);
        To* to = panel + kk * width + i;
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

// to[i·to_row + kk] = source[i·step + kk·k_step] for i < rows and kk < k, converted from From to fp32.
template <class From>
void pack_rows(float* to, int64_t to_row, const From* source, int64_t step, int64_t k_step, int64_t rows,
               int64_t k) {
  if (k_step != 1 && step == 1) {
    // Each k is a stream along the rows: all rows of a few of them first, while the next few are fetched.
    for (int64_t kk = 0; kk < k; kk += kLanes) {
      const int columns = static_cast<int>(min(kLanes, k - kk));
      const int64_t later = kk + 2 * kLanes <= k ? kLanes : 0;
      for (int64_t i = 0; i < rows; i += kLanes) {
        const int valid = static_cast<int>(min(kLanes, rows - i));
        vf lines[kLanes];
        TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
          const From* from = source + (kk + lane) * k_step + i;
          __builtin_prefetch(from + later * k_step, 0, 2);
          lines[lane] = lane < columns ? load_upto(from, valid) : zero();
        }
        transpose(lines);
        TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
          if (lane < valid) store_upto(to + (i + lane) * to_row + kk, lines[lane], columns);
        }
      }
    }
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t kk = 0; kk < k; kk += kLanes) {
      const int columns = static_cast<int>(min(kLanes, k - kk));
      const From* from = source + i * step + kk * k_step;
      store_upto(to + i * to_row + kk,
                 k_step == 1 ? load_upto(from, columns) : load_strided(from, k_step, columns), columns);
    }
  }
}

#if defined(__AVX512F__)

// The next `values` bf16 values as pairs, a vector of them at most; what lies beyond is zero.
TW_INLINE vf load_pairs(const bf16* p, int64_t values) {
  if (values >= 2 * kLanes) return load(reinterpret_cast<const float*>(p));
  const uint32_t mask = values <= 0 ? 0u : (1u << values) - 1u;
  return (vf)_mm512_maskz_loadu_epi16(mask, p);
}

// Up to kLanes values that lie `step` apart.
TW_INLINE vf load_along(const bf16* p, int64_t step, int count) {
  return step == 1 ? load_upto(p, count) : load_strided(p, step, count);
}

// The two rows of values as the halves of 32 bits, `low` in the lower one.
TW_INLINE vf pair(vf low, vf high) {
  return (vf)(((vu)low >> 16) | (vu)high);
}

// Pairs along k for Bf16PairStep: panel[kk·width + i] holds source[i·step + 2·kk·k_step] and the value after
// it, which is zero where k is odd and ends.
inline void pack_panel(uint32_t* panel, const bf16* source, int64_t step, int64_t k_step, int width,
                       int valid, int64_t k) {
  const int64_t pairs = ceil_div(k, 2);
  float* out = reinterpret_cast<float*>(panel);
  if (k_step == 1) {
    for (int i = 0; i < width; i += kLanes) {
      for (int64_t kk = 0; kk < pairs; kk += kLanes) {
        const int columns = static_cast<int>(min(kLanes, pairs - kk));
        const bf16* later = source + i * step + walk_ahead(2 * kk, kFetchAhead / sizeof(bf16), k, step);
        vf rows[kLanes];
        TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
          __builtin_prefetch(later + lane * step, 0, 2);
          rows[lane] =
              i + lane < valid ? load_pairs(source + (i + lane) * step + 2 * kk, k - 2 * kk) : zero();
        }
        transpose(rows);
        float* to = out + kk * width + i;
        TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
          if (lane < columns) store_upto(to + lane * width, rows[lane], width - i);
        }
      }
    }
    return;
  }
  for (int64_t kk = 0; kk < pairs; ++kk) {
    const bf16* row = source + 2 * kk * k_step;
    const bool whole = 2 * kk + 1 < k;
    for (int i = 0; i < width; i += kLanes) {
      const bf16* from = row + i * step;
      vf low = zero(), high = zero();
      if (i < valid) {
        low = load_along(from, step, valid - i);
        if (whole) high = load_along(from + k_step, step, valid - i);
      }
      store_upto(out + kk * width + i, pair(low, high), width - i);
    }
  }
}

// Pairs along k for Bf16PairStep: to[i·to_row + kk] holds source[i·step + 2·kk·k_step] and the value after
// it, which is zero where k is odd and ends.
inline void pack_rows(uint32_t* to, int64_t to_row, const bf16* source, int64_t step, int64_t k_step,
                      int64_t rows, int64_t k) {
  const int64_t pairs = ceil_div(k, 2);
  float* out = reinterpret_cast<float*>(to);
  if (k_step == 1) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t kk = 0; kk < pairs; kk += kLanes) {
        store_upto(out + i * to_row + kk, load_pairs(source + i * step + 2 * kk, k - 2 * kk),
                   static_cast<int>(min(kLanes, pairs - kk)));
      }
    }
    return;
  }
  for (int64_t kk = 0; kk < pairs; kk += kLanes) {
    const int columns = static_cast<int>(min(kLanes, pairs - kk));
    const int64_t later = kk + 2 * kLanes <= pairs ? 2 * kLanes * k_step : 0;
    for (int64_t i = 0; i < rows; i += kLanes) {
      const int valid = static_cast<int>(min(kLanes, rows - i));
      vf lines[kLanes];
      TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
        const bf16* low = source + i * step + 2 * (kk + lane) * k_step;
        lines[lane] = zero();
        if (lane < columns) {
          __builtin_prefetch(low + later, 0, 2);
          __builtin_prefetch(low + later + k_step, 0, 2);
          const bool whole = 2 * (kk + lane) + 1 < k;
          lines[lane] =
              pair(load_along(low, step, valid), whole ? load_along(low + k_step, step, valid) : zero());
        }
      }
      transpose(lines);
      TW_UNROLL for (int lane = 0; lane < kLanes; ++lane) {
        if (lane < valid) store_upto(out + (i + lane) * to_row + kk, lines[lane], columns);
      }
    }
  }
}

#endif

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE