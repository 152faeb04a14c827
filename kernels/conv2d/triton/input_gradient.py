"""The gradient of the input: an implicit product over the taps that saw each pixel.

    dx[n, c, ih, iw] = sum over k, r, s of dy[n, k, (ih + top - r·dilation) / stride, …] · w[k, c, r, s]

over the taps for which the division leaves no remainder. With a stride, most leave one; so the pixels of x are sorted
into stride_h × stride_w classes by (ih mod stride_h, iw mod stride_w), and a program owns pixels of one class, which
all have the same taps: r0, r0 + step, r0 + 2·step … with step = stride / gcd(stride, dilation). Along those, dy is read
at distances of step·dilation / stride, without a remainder, so that `taps.multiply_taps` does the rest. A class that no
tap reaches (a 1 × 1 window with a stride) gets zeros.

Programs, split sums and what is known of strides: as in implicit_gemm.py. Program (i, j) has tile i of class j.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from tilewright.kernels.conv2d.triton.pixels import offsets_of, pixels_of_rows, store_pixels
from tilewright.kernels.conv2d.triton.taps import multiply_taps
from tilewright.kernels.triton_blocks import as_multiple, tile_of_program


@triton.jit
def first_tap(position, TAPS, stride, dilation, step):
    """The smallest r < step with ``(position - r·dilation) mod stride = 0``; TAPS if there is none."""
    found = TAPS
    for i in range(step):
        r = step - 1 - i
        found = tl.where((position - r * dilation) % stride == 0, tl.minimum(r, TAPS), found)
    return found


@triton.jit
def input_gradient(
    dy_ptr,
    w_ptr,
    dx_ptr,
    M,
    N,
    K,
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
    dx_part,
    dx_n,
    dx_c,
    dx_h,
    dx_w,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    ONE_TAP: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS_LAST: tl.constexpr,
    N_LAST: tl.constexpr,
    DY_UNIT: tl.constexpr,
    W_UNIT: tl.constexpr,
    DX_UNIT: tl.constexpr,
    DX_RUN: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    SUBTILES: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    DECODE: tl.constexpr,
):
    """M pixels of a class (N·CLASS_H·CLASS_W, some of them perhaps outside of x), N input and K output channels per
    group. `dx_ptr` is dx, or with SPLIT_K > 1 the workspace, `dx_part` elements per part."""
    if DY_UNIT > 1:
        dy_n, dy_h = as_multiple(dy_n, DY_UNIT), as_multiple(dy_h, DY_UNIT)
        dy_w, K = as_multiple(dy_w, DY_UNIT), as_multiple(K, DY_UNIT)
    if W_UNIT > 1:
        w_r, w_s = as_multiple(w_r, W_UNIT), as_multiple(w_s, W_UNIT)
        if N_LAST:
            w_k, N = as_multiple(w_k, W_UNIT), as_multiple(N, W_UNIT)
        else:
            w_c, K = as_multiple(w_c, W_UNIT), as_multiple(K, W_UNIT)
    if DX_UNIT > 1:
        dx_n, dx_h = as_multiple(dx_n, DX_UNIT), as_multiple(dx_h, DX_UNIT)
        if ROWS_LAST:
            dx_c = as_multiple(dx_c, DX_UNIT)
        else:
            dx_w, N = as_multiple(dx_w, DX_UNIT), as_multiple(N, DX_UNIT)

    class_h, class_w = tl.program_id(1) // stride_w, tl.program_id(1) % stride_w
    r0 = first_tap(class_h + top, R, stride_h, dilation_h, step_h)
    s0 = first_tap(class_w + left, S, stride_w, dilation_w, step_w)
    taps_h, taps_w = tl.cdiv(R - r0, step_h), tl.cdiv(S - s0, step_w)

    group, part, row, col = tile_of_program(M, N, BLOCK_M, BLOCK_N, GROUP_M, SPLIT_K, False)
    rows = row + tl.arange(0, BLOCK_M)
    rows_ok = rows < M
    if not EVEN_M:
        rows = tl.minimum(rows, M - 1)
    n, i, j = pixels_of_rows(rows, CLASS_H, CLASS_W)
    ih, iw = i * stride_h + class_h, j * stride_w + class_w
    rows_ok &= (ih < H) & (iw < W)
    oh = i + (class_h + top - r0 * dilation_h) // stride_h
    ow = j + (class_w + left - s0 * dilation_w) // stride_w

    steps = taps_h * taps_w * tl.cdiv(K, BLOCK_K)
    part_steps = tl.cdiv(steps, SPLIT_K)
    first = tl.minimum(part * part_steps, steps)
    last = tl.minimum(first + part_steps, steps)
    group = group.to(tl.int64)
    acc = multiply_taps(
        dy_ptr + group * K * dy_k,
        w_ptr + group * K * w_k + r0.to(tl.int64) * w_r + s0.to(tl.int64) * w_s,
        offsets_of(n, oh, ow, dy_n, dy_h, dy_w, WIDE),
        oh,
        ow,
        col,
        N,
        K,
        P,
        Q,
        taps_w,
        -(step_h * dilation_h // stride_h),
        -(step_w * dilation_w // stride_w),
        dy_k,
        dy_h,
        dy_w,
        w_c,
        w_k,
        w_r * step_h,
        w_s * step_w,
        first,
        last,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        EVEN_N,
        EVEN_K,
        ONE_TAP,
        PADDED,
        PIXELS_LAST,
        N_LAST,
        WIDE,
        INPUT_PRECISION,
        DECODE,
    )

    store_pixels(
        acc,
        dx_ptr + part.to(tl.int64) * dx_part,
        None,
        None,
        None,
        n,
        ih,
        iw,
        rows_ok,
        group,
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
        SUBTILES,
        "none",
        EVEN_M,
        EVEN_N,
        ROWS_LAST,
        DX_RUN,
        1,
        WIDE,
    )
