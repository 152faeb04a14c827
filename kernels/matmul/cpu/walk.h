// Batch walking that gemm and gemv share.
#pragma once

#include "cpu/epilogue.h"
#include "cpu/ranges.h"
#include "matmul/cpu/matmul.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

// The matrices of one batch entry.
struct BatchEntry {
  const void* a;
  const void* b;
  Epilogue epilogue;
};

inline BatchEntry batch_entry(const MatmulGeometry& g, const MatmulPointers& p, int64_t index) {
  int64_t a = 0, b = 0, residual = 0;
  int64_t rest = index;
  for (int dim = g.batch_rank - 1; dim >= 0; --dim) {
    const int64_t at = rest % g.batch[dim];
    rest /= g.batch[dim];
    a += at * g.a_batch[dim];
    b += at * g.b_batch[dim];
    residual += at * g.residual_batch[dim];
  }
  BatchEntry entry;
  entry.a = advance(p.a, a, g.dtype);
  entry.b = advance(p.b, b, g.dtype);
  entry.epilogue = g.epilogue;
  Epilogue& e = entry.epilogue;
  e.bias = p.bias;
  e.residual = p.residual == nullptr ? nullptr : advance(p.residual, residual, e.residual_dtype);
  e.out = advance(p.c, index * g.m * g.n, e.out_dtype);
  e.preact = p.preact == nullptr ? nullptr : advance(p.preact, index * g.m * g.n, e.out_dtype);
  return entry;
}

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
