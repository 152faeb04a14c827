"""The sum of an implicit product over few channels, as in the first layer of a network (3 channels).

`taps.multiply_taps` gives every tap a step of its own, of which 3 channels would fill a fifth at most. Here a step is
BLOCK_K terms of one long sum over (r, s, c), in the weight's order in memory, and each lane finds its own tap: two
divisions per lane and step, and masks and addresses of two dimensions. That costs more than it saves from about 16
channels on.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def multiply_terms(
    in_ptr,
    w_ptr,
    in_rows,
    ih,
    iw,
    col,
    N,
    C,
    H,
    W,
    R,
    S,
    delta_h,
    delta_w,
    in_c,
    in_h,
    in_w,
    w_n,
    w_c,
    w_r,
    w_s,
    first,
    last,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_TERMS: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    DECODE: tl.constexpr,
):
    """As `multiply_taps`. CHANNELS_FIRST: the weight lies in the order (c, r, s), so terms are taken in that."""
    cols = col + tl.arange(0, BLOCK_N)
    w_cols = cols
    if WIDE:
        w_cols = cols.to(tl.int64)
    cols_ok = cols < N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(first, last):
        terms = step * BLOCK_K + tl.arange(0, BLOCK_K)
        if CHANNELS_FIRST:
            c, tap = terms // (R * S), terms % (R * S)
        else:
            c, tap = terms % C, terms // C
        r, s = tap // S, tap % S
        shift_h, shift_w = r * delta_h, s * delta_w
        if WIDE:
            c, r, s = c.to(tl.int64), r.to(tl.int64), s.to(tl.int64)
        in_offsets = r * delta_h * in_h + s * delta_w * in_w + c * in_c
        w_offsets = r * w_r + s * w_s + c * w_c
        if PIXELS_LAST:
            in_ptrs = in_ptr + (in_offsets[:, None] + in_rows[None, :])
            row_in, col_in = ih[None, :] + shift_h[:, None], iw[None, :] + shift_w[:, None]
            terms_ok = (terms < R * S * C)[:, None]
        else:
            in_ptrs = in_ptr + (in_rows[:, None] + in_offsets[None, :])
            row_in, col_in = ih[:, None] + shift_h[None, :], iw[:, None] + shift_w[None, :]
            terms_ok = (terms < R * S * C)[None, :]
        if PADDED:
            inside = (row_in >= 0) & (row_in < H) & (col_in >= 0) & (col_in < W)
            x = tl.load(in_ptrs, mask=inside & terms_ok, other=0.0)
        elif EVEN_TERMS:
            x = tl.load(in_ptrs)
        else:
            x = tl.load(in_ptrs, mask=terms_ok, other=0.0)
        if PIXELS_LAST:
            x = tl.trans(x)
        w_ptrs = w_ptr + (w_cols[:, None] * w_n + w_offsets[None, :])
        if EVEN_N and EVEN_TERMS:
            w = tl.load(w_ptrs)
        else:
            w = tl.load(w_ptrs, mask=cols_ok[:, None] & (terms < R * S * C)[None, :], other=0.0)
        w = tl.trans(w)
        if DECODE:
            x, w = x.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(x, w, acc, input_precision=INPUT_PRECISION)
    return acc
