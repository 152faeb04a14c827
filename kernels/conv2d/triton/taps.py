"""The loop that all implicit products share: over the taps of the window and, within each, over the channels.

    acc[m, n] = sum over taps (r, s), channels c of  in[pixel(m) + (r, s)·delta, c] · w[n, c, r, s]

A tile has BLOCK_M pixels of the computed image and BLOCK_N of its channels. Where a pixel reads is found once, before
the loop; a tap moves all of a tile's pixels by the same distance, so a step adds one number to every address.

Steps form one loop, not three nested ones: the compiler fetches ahead within a loop only, and a layer of 64
channels has a step or two per tap. The usual way to do that, recovering (r, s, c) from the step's number by
division, is known to be compiled wrongly with 8 warps (torch's own template of it is). Here r, s and c are carried
from step to step and wrap around; nothing in the loop is divided.

Pixels beyond the last are clamped to it rather than masked: what they compute is not stored.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from tilewright.kernels.triton_blocks import load_tile


@triton.jit
def multiply_taps(
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
    EVEN_C: tl.constexpr,
    ONE_TAP: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS_LAST: tl.constexpr,
    N_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    DECODE: tl.constexpr,
):
    """Steps `first` to `last` of the sum for a tile whose channels begin at `col` of N; one step is BLOCK_K channels.

    `in_rows` are the offsets of what the tile's pixels read at tap (0, 0), `ih` and `iw` its place in the image of
    H × W; both may lie outside. A tap is `delta` further. PADDED: taps may fall outside of the image. PIXELS_LAST and
    N_LAST say along which dimension the operands are contiguous, if at all: pixels rather than channels, and N rather
    than C.
    """
    steps = tl.arange(0, BLOCK_K)
    cols = col + tl.arange(0, BLOCK_N)
    c_tiles = tl.maximum(tl.cdiv(C, BLOCK_K), 1)
    tap = first // c_tiles
    c = first % c_tiles * BLOCK_K
    S = tl.maximum(S, 1)  # a class of pixels may have no tap
    r, s = tap // S, tap % S

    lanes = steps
    if WIDE:
        lanes, cols, r, s, c = (
            lanes.to(tl.int64),
            cols.to(tl.int64),
            r.to(tl.int64),
            s.to(tl.int64),
            c.to(tl.int64),
        )
    in_offsets = (
        lanes[:, None] * in_c + in_rows[None, :] if PIXELS_LAST else in_rows[:, None] + lanes[None, :] * in_c
    )
    w_offsets = (
        lanes[:, None] * w_c + cols[None, :] * w_n if N_LAST else cols[:, None] * w_n + lanes[None, :] * w_c
    )

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(first, last):
        left = C - c
        in_at = r * delta_h * in_h + s * delta_w * in_w + c * in_c
        w_at = r * w_r + s * w_s + c * w_c
        row_in = ih + r * delta_h
        col_in = iw + s * delta_w
        inside = (row_in >= 0) & (row_in < H) & (col_in >= 0) & (col_in < W)
        if PIXELS_LAST:
            x = load_tile(
                in_ptr + in_at + in_offsets, inside[None, :], steps[:, None] < left, not PADDED, EVEN_C
            )
            x = tl.trans(x)
        else:
            x = load_tile(
                in_ptr + in_at + in_offsets, inside[:, None], steps[None, :] < left, not PADDED, EVEN_C
            )
        if N_LAST:
            w = load_tile(w_ptr + w_at + w_offsets, cols[None, :] < N, steps[:, None] < left, EVEN_N, EVEN_C)
        else:
            w = load_tile(w_ptr + w_at + w_offsets, cols[:, None] < N, steps[None, :] < left, EVEN_N, EVEN_C)
            w = tl.trans(w)
        if DECODE:
            x, w = x.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(x, w, acc, input_precision=INPUT_PRECISION)
        c += BLOCK_K
        if not ONE_TAP:
            tap_done = c >= C
            c = tl.where(tap_done, 0, c)
            s += tl.where(tap_done, 1, 0)
            row_done = s == S
            s = tl.where(row_done, 0, s)
            r += tl.where(row_done, 1, 0)
    return acc
