"""Depthwise convolution, and that of small groups, without matrix units: each tap is multiplied where it is loaded.

    y[n, k, p, q] = act(sum over i, r, s of x[n, group(k)·C + i, …] · w[k, i, r, s] + bias + residual)

where C, the input channels of a group, is 1 (depthwise, with any number of outputs per input) or small. A matrix
product would be mostly padding. A program owns BLOCK_M pixels and BLOCK_N channels; neighbouring threads have
neighbouring channels (NHWC) or pixels (NCHW), and for each tap a thread multiplies its vectors. Such a layer is bound
by memory: what overlapping windows read twice comes from L1.

`depthwise_gradients.py` has the gradients; that of the input is the same sum.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from tilewright.kernels.conv2d.triton.pixels import offsets_of, pixels_of_rows, store_pixels
from tilewright.kernels.triton_blocks import as_multiple, load_tile, tile_of_program


@triton.jit
def add_tap(
    acc,
    in_ptr,
    w_ptr,
    in_offsets,
    w_offsets,
    inside,
    cols_ok,
    in_c,
    w_in,
    IN_PER_GROUP: tl.constexpr,
    EVEN_N: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS_LAST: tl.constexpr,
):
    """`acc` plus one tap's products, over the channels of a group that go into each output."""
    for i in tl.static_range(IN_PER_GROUP):
        if EVEN_N:
            w = tl.load(w_ptr + w_offsets + i * w_in).to(tl.float32)
        else:
            w = tl.load(w_ptr + w_offsets + i * w_in, mask=cols_ok, other=0.0).to(tl.float32)
        ptrs = in_ptr + in_offsets + i * in_c
        if PIXELS_LAST:
            x = load_tile(ptrs, cols_ok[:, None], inside[None, :], EVEN_N, not PADDED)
            acc += x.to(tl.float32) * w[:, None]
        else:
            x = load_tile(ptrs, inside[:, None], cols_ok[None, :], not PADDED, EVEN_N)
            acc += x.to(tl.float32) * w[None, :]
    return acc


@triton.jit
def sum_taps(
    in_ptr,
    w_ptr,
    n,
    ih,
    iw,
    cols,
    N,
    H,
    W,
    taps_h,
    taps_w,
    delta_h,
    delta_w,
    in_n,
    in_c,
    in_h,
    in_w,
    w_group,
    w_out,
    w_in,
    w_r,
    w_s,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    IN_PER_GROUP: tl.constexpr,
    OUT_PER_GROUP: tl.constexpr,
    UNROLLED_W: tl.constexpr,
    EVEN_N: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The sums of a tile of pixels that read (ih, iw) of image n at tap (0, 0), and of the channels `cols` of N.

    UNROLLED_W is the number of taps in a row of the window if their loads shall be under way together, else 0.
    Pixels × channels, or with PIXELS_LAST channels × pixels.
    """
    cols_ok = cols < N
    if OUT_PER_GROUP == 1 and IN_PER_GROUP == 1:
        # The same, but here the compiler sees that neighbours are neighbours.
        in_cols, w_offsets = cols, cols * w_group
    else:
        in_cols = cols // OUT_PER_GROUP * IN_PER_GROUP
        w_offsets = cols // OUT_PER_GROUP * w_group + cols % OUT_PER_GROUP * w_out
    in_rows = offsets_of(n, ih, iw, in_n, in_h, in_w, WIDE)
    if WIDE:
        in_cols = in_cols.to(tl.int64)
    if PIXELS_LAST:
        in_offsets = in_cols[:, None] * in_c + in_rows[None, :]
        acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    else:
        in_offsets = in_rows[:, None] + in_cols[None, :] * in_c
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for r in range(taps_h):
        row_in = ih + r * delta_h
        rows_inside = (row_in >= 0) & (row_in < H)
        row_ptr = in_ptr + (r * delta_h).to(tl.int64) * in_h
        row_w_ptr = w_ptr + r * w_r
        if UNROLLED_W:
            for s in tl.static_range(UNROLLED_W):
                col_in = iw + s * delta_w
                inside = rows_inside & (col_in >= 0) & (col_in < W)
                acc = add_tap(
                    acc,
                    row_ptr + s * delta_w * in_w,
                    row_w_ptr + s * w_s,
                    in_offsets,
                    w_offsets,
                    inside,
                    cols_ok,
                    in_c,
                    w_in,
                    IN_PER_GROUP,
                    EVEN_N,
                    PADDED,
                    PIXELS_LAST,
                )
        else:
            for s in range(taps_w):
                col_in = iw + s * delta_w
                inside = rows_inside & (col_in >= 0) & (col_in < W)
                acc = add_tap(
                    acc,
                    row_ptr + (s * delta_w).to(tl.int64) * in_w,
                    row_w_ptr + s * w_s,
                    in_offsets,
                    w_offsets,
                    inside,
                    cols_ok,
                    in_c,
                    w_in,
                    IN_PER_GROUP,
                    EVEN_N,
                    PADDED,
                    PIXELS_LAST,
                )
    return acc


@triton.jit
def depthwise(
    x_ptr,
    w_ptr,
    y_ptr,
    preact_ptr,
    bias_ptr,
    residual_ptr,
    M,
    N,
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
    x_n,
    x_c,
    x_h,
    x_w,
    w_k,
    w_c,
    w_r,
    w_s,
    y_n,
    y_k,
    y_h,
    y_w,
    bias_stride,
    residual_n,
    residual_k,
    residual_h,
    residual_w,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
    IN_PER_GROUP: tl.constexpr,
    OUT_PER_GROUP: tl.constexpr,
    UNROLLED_W: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS_LAST: tl.constexpr,
    X_UNIT: tl.constexpr,
    Y_UNIT: tl.constexpr,
    RESIDUAL_UNIT: tl.constexpr,
    Y_RUN: tl.constexpr,
    RESIDUAL_RUN: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """M pixels and N channels of y, all groups together."""
    if X_UNIT > 1:
        x_n, x_h = as_multiple(x_n, X_UNIT), as_multiple(x_h, X_UNIT)
        x_w, N = as_multiple(x_w, X_UNIT), as_multiple(N, X_UNIT)
    if Y_UNIT > 1:
        y_n, y_h = as_multiple(y_n, Y_UNIT), as_multiple(y_h, Y_UNIT)
        if ROWS_LAST:
            y_k = as_multiple(y_k, Y_UNIT)
        else:
            y_w, N = as_multiple(y_w, Y_UNIT), as_multiple(N, Y_UNIT)
    if RESIDUAL_UNIT > 1:
        residual_n, residual_h = (
            as_multiple(residual_n, RESIDUAL_UNIT),
            as_multiple(residual_h, RESIDUAL_UNIT),
        )
        if ROWS_LAST:
            residual_k = as_multiple(residual_k, RESIDUAL_UNIT)
        else:
            residual_w = as_multiple(residual_w, RESIDUAL_UNIT)

    _, _, row, col = tile_of_program(M, N, BLOCK_M, BLOCK_N, GROUP_M, 1, False)
    rows = row + tl.arange(0, BLOCK_M)
    rows_ok = rows < M
    if not EVEN_M:
        rows = tl.minimum(rows, M - 1)
    n, p, q = pixels_of_rows(rows, P, Q)
    acc = sum_taps(
        x_ptr,
        w_ptr,
        n,
        p * stride_h - top,
        q * stride_w - left,
        col + tl.arange(0, BLOCK_N),
        N,
        H,
        W,
        R,
        S,
        dilation_h,
        dilation_w,
        x_n,
        x_c,
        x_h,
        x_w,
        OUT_PER_GROUP * w_k,
        w_k,
        w_c,
        w_r,
        w_s,
        BLOCK_M,
        BLOCK_N,
        IN_PER_GROUP,
        OUT_PER_GROUP,
        UNROLLED_W,
        EVEN_N,
        PADDED,
        PIXELS_LAST,
        WIDE,
    )
    if PIXELS_LAST:
        acc = tl.trans(acc)
    store_pixels(
        acc,
        y_ptr,
        preact_ptr,
        bias_ptr,
        residual_ptr,
        n,
        p,
        q,
        rows_ok,
        0,
        col,
        N,
        y_n,
        y_k,
        y_h,
        y_w,
        bias_stride,
        residual_n,
        residual_k,
        residual_h,
        residual_w,
        BLOCK_M,
        BLOCK_N,
        1,
        ACTIVATION,
        EVEN_M,
        EVEN_N,
        ROWS_LAST,
        Y_RUN,
        RESIDUAL_RUN,
        WIDE,
    )
