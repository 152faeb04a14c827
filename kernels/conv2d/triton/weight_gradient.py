"""The gradient of the weight: a product over all pixels of the batch.

    dw[k, c, r, s] = sum over n, p, q of dy[n, k, p, q] · x[n, c, p·stride - top + r·dilation, …]

A program owns BLOCK_M output channels k and BLOCK_N input channels c of one tap (r, s) and one group, and walks over
pixels in steps of BLOCK_K. With few input channels (FLAT) the columns of a tile are pairs (tap, c) instead, each of
which finds its own place in x: a tap of 3 channels would leave most of a tile empty.

The output is small and the sum is long (a million pixels for a batch of early layers), so the sum is split: SPLIT_K
programs per tile, each with its own stretch of pixels, store fp32 sums to a workspace (SPLIT_K, elements of dw in
their order in memory), which `sum_weight_parts` adds in ascending order. No atomics: the bits are the same on every
run.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from tilewright.kernels.conv2d.triton.pixels import offsets_of, pixels_of_rows
from tilewright.kernels.triton_blocks import as_multiple, load_tile, tile_of_program


@triton.jit
def weight_gradient(
    dy_ptr,
    x_ptr,
    dw_ptr,
    M,
    N,
    PIXELS,
    H,
    W,
    P,
    Q,
    R,
    S,
    stride_h,
    stride_w,
    top,
    left,
    dilation_h,
    dilation_w,
    dy_n,
    dy_k,
    dy_h,
    dy_w,
    x_n,
    x_c,
    x_h,
    x_w,
    dw_part,
    dw_k,
    dw_c,
    dw_r,
    dw_s,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    PADDED: tl.constexpr,
    FLAT: tl.constexpr,
    X_PIXELS_LAST: tl.constexpr,
    DY_UNIT: tl.constexpr,
    X_UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    DECODE: tl.constexpr,
):
    """M output and N input channels per group, PIXELS of y in the batch.

    `dw_ptr` is dw, or with SPLIT_K > 1 the workspace, `dw_part` elements per part.
    """
    if DY_UNIT > 1:
        dy_n, dy_h = as_multiple(dy_n, DY_UNIT), as_multiple(dy_h, DY_UNIT)
        dy_w, M = as_multiple(dy_w, DY_UNIT), as_multiple(M, DY_UNIT)
    if X_UNIT > 1:
        x_n, x_h = as_multiple(x_n, X_UNIT), as_multiple(x_h, X_UNIT)
        x_w, N = as_multiple(x_w, X_UNIT), as_multiple(N, X_UNIT)

    if FLAT:
        columns = R * S * N
    else:
        tiles_n = tl.cdiv(N, BLOCK_N)
        columns = R * S * tiles_n * BLOCK_N
    group, part, row, col = tile_of_program(M, columns, BLOCK_M, BLOCK_N, GROUP_M, SPLIT_K, False)
    if FLAT:
        lanes = col + tl.arange(0, BLOCK_N)
        tap, c = lanes // N, lanes % N
        cols_ok = lanes < columns
    else:
        tap = col // BLOCK_N // tiles_n
        c = col // BLOCK_N % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
        cols_ok = c < N
    r, s = tap // S, tap % S
    # Where the tap is from the place of tap (0, 0).
    shift_h, shift_w = r * dilation_h - top, s * dilation_w - left
    k = row + tl.arange(0, BLOCK_M)
    k_ok = k < M
    if WIDE:
        k, c = k.to(tl.int64), c.to(tl.int64)
    group = group.to(tl.int64)
    dy_ptr += group * M * dy_k
    x_ptr += group * N * x_c
    x_cols = c * x_c + offsets_of(0 * shift_h, shift_h, shift_w, 0, x_h, x_w, WIDE)

    steps = tl.cdiv(PIXELS, BLOCK_K)
    part_steps = tl.cdiv(steps, SPLIT_K)
    first = min(part * part_steps, steps)
    last = min(first + part_steps, steps)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(first, last):
        pixels = step * BLOCK_K + tl.arange(0, BLOCK_K)
        pixels_ok = pixels < PIXELS
        n, p, q = pixels_of_rows(pixels, P, Q)
        ih, iw = p * stride_h, q * stride_w
        dy_rows = offsets_of(n, p, q, dy_n, dy_h, dy_w, WIDE)
        x_rows = offsets_of(n, ih, iw, x_n, x_h, x_w, WIDE)
        # In this order wherever dy is contiguous: transposing it would keep sm_80 from fetching it ahead.
        dy = load_tile(
            dy_ptr + (k[:, None] * dy_k + dy_rows[None, :]), k_ok[:, None], pixels_ok[None, :], EVEN_M, EVEN_K
        )
        if X_PIXELS_LAST:
            x_ptrs = x_ptr + (x_cols[:, None] + x_rows[None, :])
            if FLAT:
                row_in, col_in = ih[None, :] + shift_h[:, None], iw[None, :] + shift_w[:, None]
            else:
                row_in, col_in = ih[None, :] + shift_h, iw[None, :] + shift_w
            seen, channels = pixels_ok[None, :], cols_ok[:, None]
        else:
            x_ptrs = x_ptr + (x_rows[:, None] + x_cols[None, :])
            if FLAT:
                row_in, col_in = ih[:, None] + shift_h[None, :], iw[:, None] + shift_w[None, :]
            else:
                row_in, col_in = ih[:, None] + shift_h, iw[:, None] + shift_w
            seen, channels = pixels_ok[:, None], cols_ok[None, :]
        if PADDED:
            seen = seen & (row_in >= 0) & (row_in < H) & (col_in >= 0) & (col_in < W)
        x = load_tile(x_ptrs, seen, channels, EVEN_K and not PADDED, EVEN_N)
        if X_PIXELS_LAST:
            x = tl.trans(x)
        if DECODE:
            dy, x = dy.to(tl.float32), x.to(tl.float32)
        acc = tl.dot(dy, x, acc, input_precision=INPUT_PRECISION)

    dw_ptr += part.to(tl.int64) * dw_part + group * M * dw_k
    offsets = k[:, None] * dw_k + c[None, :] * dw_c
    if FLAT:
        offsets += (r * dw_r + s * dw_s)[None, :]
    else:
        offsets += r * dw_r + s * dw_s
    tl.store(dw_ptr + offsets, acc.to(dw_ptr.dtype.element_ty), mask=k_ok[:, None] & cols_ok[None, :])


@triton.jit
def sum_weight_parts(parts_ptr, dw_ptr, SIZE, BLOCK: tl.constexpr, SPLIT_K: tl.constexpr, EVEN: tl.constexpr):
    """dw = sum over parts, in ascending order; all SIZE elements in their order in memory."""
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < SIZE
    ptrs = parts_ptr + offsets
    part_size = tl.full((), 1, tl.int64) * SIZE
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    for _ in range(SPLIT_K):
        if EVEN:
            acc += tl.load(ptrs)
        else:
            acc += tl.load(ptrs, mask=mask, other=0.0)
        ptrs += part_size
    if EVEN:
        tl.store(dw_ptr + offsets, acc.to(dw_ptr.dtype.element_ty))
    else:
        tl.store(dw_ptr + offsets, acc.to(dw_ptr.dtype.element_ty), mask=mask)
