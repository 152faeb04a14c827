"""The gradients of depthwise convolution and of small groups, without matrix units.

That of the input is the sum of depthwise.py over the outputs of a group, with the taps of a pixel's class (see
input_gradient.py). That of the weight is a sum over all pixels of the batch:

    dw[k, i, r, s] = sum over n, p, q of dy[n, k, p, q] · x[n, group(k)·C + i, p·stride - top + r·dilation, …]

A program owns BLOCK_N channels k, one i and one row r of the window, of which it takes BLOCK_S taps at once: a value of
dy is loaded once for them, and what they read of x overlaps. It walks over pixels, BLOCK_M at a time, and keeps a sum
for each of them, tap and channel; the pixels are added up at the end. Parts (SPLIT_K) are summed by
`weight_gradient.sum_weight_parts`, in ascending order.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from tilewright.kernels.conv2d.triton.depthwise import sum_taps
from tilewright.kernels.conv2d.triton.input_gradient import first_tap
from tilewright.kernels.conv2d.triton.pixels import offsets_of, pixels_of_rows, store_pixels
from tilewright.kernels.triton_blocks import as_multiple, tile_of_program


@triton.jit
def depthwise_input_gradient(
    dy_ptr,
    w_ptr,
    dx_ptr,
    M,
    N,
    H,
    W,
    CLASS_H,
    CLASS_W,
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
    step_h,
    step_w,
    dy_n,
    dy_k,
    dy_h,
    dy_w,
    w_k,
    w_c,
    w_r,
    w_s,
    dx_n,
    dx_c,
    dx_h,
    dx_w,
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
    DY_UNIT: tl.constexpr,
    DX_UNIT: tl.constexpr,
    DX_RUN: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
):
    """M pixels of a class of dx and its N channels; IN_PER_GROUP channels of dy go into each."""
    if DY_UNIT > 1:
        dy_n, dy_h = as_multiple(dy_n, DY_UNIT), as_multiple(dy_h, DY_UNIT)
        dy_w, N = as_multiple(dy_w, DY_UNIT), as_multiple(N, DY_UNIT)
    if DX_UNIT > 1:
        dx_n, dx_h = as_multiple(dx_n, DX_UNIT), as_multiple(dx_h, DX_UNIT)
        if ROWS_LAST:
            dx_c = as_multiple(dx_c, DX_UNIT)
        else:
            dx_w, N = as_multiple(dx_w, DX_UNIT), as_multiple(N, DX_UNIT)

    class_h, class_w = tl.program_id(1) // stride_w, tl.program_id(1) % stride_w
    r0 = first_tap(class_h + top, R, stride_h, dilation_h, step_h)
    s0 = first_tap(class_w + left, S, stride_w, dilation_w, step_w)

    _, _, row, col = tile_of_program(M, N, BLOCK_M, BLOCK_N, GROUP_M, 1, False)
    rows = row + tl.arange(0, BLOCK_M)
    rows_ok = rows < M
    if not EVEN_M:
        rows = tl.minimum(rows, M - 1)
    n, i, j = pixels_of_rows(rows, CLASS_H, CLASS_W)
    ih, iw = i * stride_h + class_h, j * stride_w + class_w
    acc = sum_taps(
        dy_ptr,
        w_ptr + r0.to(tl.int64) * w_r + s0.to(tl.int64) * w_s,
        n,
        i + (class_h + top - r0 * dilation_h) // stride_h,
        j + (class_w + left - s0 * dilation_w) // stride_w,
        col + tl.arange(0, BLOCK_N),
        N,
        P,
        Q,
        tl.cdiv(R - r0, step_h),
        tl.cdiv(S - s0, step_w),
        -(step_h * dilation_h // stride_h),
        -(step_w * dilation_w // stride_w),
        dy_n,
        dy_k,
        dy_h,
        dy_w,
        IN_PER_GROUP * w_k,
        w_c,
        w_k,
        w_r * step_h,
        w_s * step_w,
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
        dx_ptr,
        None,
        None,
        None,
        n,
        ih,
        iw,
        rows_ok & (ih < H) & (iw < W),
        0,
        col,
        N,
        dx_n,
        dx_c,
        dx_h,
        dx_w,
        0,
        0,
        0,
        0,
        0,
        BLOCK_M,
        BLOCK_N,
        1,
        "none",
        EVEN_M,
        EVEN_N,
        ROWS_LAST,
        DX_RUN,
        1,
        WIDE,
    )


@triton.jit
def depthwise_weight_gradient(
    dy_ptr,
    x_ptr,
    dw_ptr,
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
    BLOCK_S: tl.constexpr,
    SPLIT_K: tl.constexpr,
    IN_PER_GROUP: tl.constexpr,
    OUT_PER_GROUP: tl.constexpr,
    PIXELS_LAST: tl.constexpr,
    DY_UNIT: tl.constexpr,
    X_UNIT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """N output channels, all groups together, and PIXELS of y in the batch.

    Program (j, i) has channel tile j mod tiles of part j div tiles, and number i of (r, taps of s, channel i).
    """
    if DY_UNIT > 1:
        dy_n, dy_h = as_multiple(dy_n, DY_UNIT), as_multiple(dy_h, DY_UNIT)
        dy_w, N = as_multiple(dy_w, DY_UNIT), as_multiple(N, DY_UNIT)
    if X_UNIT > 1:
        x_n, x_h = as_multiple(x_n, X_UNIT), as_multiple(x_h, X_UNIT)
        x_w, N = as_multiple(x_w, X_UNIT), as_multiple(N, X_UNIT)

    tiles = tl.cdiv(N, BLOCK_N)
    part = tl.program_id(0) // tiles
    k = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    index = tl.program_id(1)
    i = index % IN_PER_GROUP
    chunks = tl.cdiv(S, BLOCK_S)
    r = index // IN_PER_GROUP // chunks
    s = index // IN_PER_GROUP % chunks * BLOCK_S + tl.arange(0, BLOCK_S)
    k_ok, s_ok = k < N, s < S
    c = k if OUT_PER_GROUP == 1 and IN_PER_GROUP == 1 else k // OUT_PER_GROUP * IN_PER_GROUP + i
    if WIDE:
        k, c = k.to(tl.int64), c.to(tl.int64)
    shift_h, shift_w = r * dilation_h - top, s * dilation_w - left
    taps = shift_w
    if WIDE:
        taps = shift_w.to(tl.int64)
    x_ptr += shift_h.to(tl.int64) * x_h

    steps = tl.cdiv(PIXELS, BLOCK_M)
    part_steps = tl.cdiv(steps, SPLIT_K)
    first = tl.minimum(part * part_steps, steps)
    last = tl.minimum(first + part_steps, steps)
    # Taps × pixels × channels, or taps × channels × pixels: what is contiguous comes last.
    if PIXELS_LAST:
        acc = tl.zeros((BLOCK_S, BLOCK_N, BLOCK_M), dtype=tl.float32)
    else:
        acc = tl.zeros((BLOCK_S, BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(first, last):
        pixels = step * BLOCK_M + tl.arange(0, BLOCK_M)
        n, p, q = pixels_of_rows(pixels, P, Q)
        ih, iw = p * stride_h, q * stride_w
        row_in, col_in = ih + shift_h, iw[None, :] + shift_w[:, None]
        seen = (pixels < PIXELS) & (row_in >= 0) & (row_in < H)
        inside = seen[None, :] & (col_in >= 0) & (col_in < W) & s_ok[:, None]
        dy_rows = offsets_of(n, p, q, dy_n, dy_h, dy_w, WIDE)
        x_rows = offsets_of(n, ih, iw, x_n, x_h, x_w, WIDE)[None, :] + taps[:, None] * x_w
        if PIXELS_LAST:
            dy = tl.load(
                dy_ptr + (k[:, None] * dy_k + dy_rows[None, :]), mask=k_ok[:, None] & seen[None, :], other=0.0
            )
            x = tl.load(
                x_ptr + (c[None, :, None] * x_c + x_rows[:, None, :]),
                mask=k_ok[None, :, None] & inside[:, None, :],
                other=0.0,
            )
        else:
            dy = tl.load(
                dy_ptr + (dy_rows[:, None] + k[None, :] * dy_k), mask=seen[:, None] & k_ok[None, :], other=0.0
            )
            x = tl.load(
                x_ptr + (x_rows[:, :, None] + c[None, None, :] * x_c),
                mask=inside[:, :, None] & k_ok[None, None, :],
                other=0.0,
            )
        # Where a tap is outside of the image, dy is not multiplied: it may be infinite.
        product = x.to(tl.float32) * dy.to(tl.float32)[None, :, :]
        if PIXELS_LAST:
            acc += tl.where(inside[:, None, :], product, 0.0)
        else:
            acc += tl.where(inside[:, :, None], product, 0.0)

    sums = tl.sum(acc, axis=2) if PIXELS_LAST else tl.sum(acc, axis=1)
    dw_ptr += part.to(tl.int64) * dw_part
    offsets = k[None, :] * dw_k + i * dw_c + r * dw_r + s[:, None] * dw_s
    tl.store(dw_ptr + offsets, sums.to(dw_ptr.dtype.element_ty), mask=s_ok[:, None] & k_ok[None, :])
