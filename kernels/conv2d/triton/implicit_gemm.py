"""Forward convolution as a matrix product whose left operand is never built.

    y[n, k, p, q] = act(sum over r, s, c of x[n, c, p·stride - top + r·dilation, …] · w[k, c, r, s] + bias + residual)

is the product of an (N·P·Q) × (R·S·C) matrix, each row of which lists the inputs under one output pixel, with the
(R·S·C) × K matrix of weights. A program owns BLOCK_M pixels and BLOCK_N output channels of one group, and gathers
the rows of the first matrix as it goes (`taps.multiply_taps`, `few_channels.multiply_terms`). Programs go down GROUP_M
tiles of pixels before they go to the next channels: those that run together share weights, and the inputs that
neighbouring windows share.

With SPLIT_K > 1 a tile belongs to SPLIT_K programs, each with its own stretch of the steps. They store fp32 sums to a
workspace (SPLIT_K, N, P, Q, K), which `sum_parts` adds in ascending order. No atomics: the bits are the same on
every run.

Tensors have any strides. What the compiler should know of them comes as constants: X_UNIT, W_UNIT and Y_UNIT are
numbers that divide the strides of each (but its unit stride) and the size of its contiguous dimension, and
RESIDUAL_UNIT one that divides the residual's; Y_RUN and RESIDUAL_RUN say how many pixels in a row of the product surely
lie side by side in y and in the residual (see alignment.py).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from tilewright.kernels.conv2d.triton.few_channels import multiply_terms
from tilewright.kernels.conv2d.triton.pixels import offsets_of, pixels_of_rows, store_pixels
from tilewright.kernels.conv2d.triton.taps import multiply_taps
from tilewright.kernels.triton_blocks import as_multiple, tile_of_program


@triton.jit
def implicit_gemm(
    x_ptr,
    w_ptr,
    y_ptr,
    preact_ptr,
    bias_ptr,
    residual_ptr,
    M,
    N,
    C,
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
    y_part,
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
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_C: tl.constexpr,
    FLAT: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
    ONE_TAP: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS_LAST: tl.constexpr,
    N_LAST: tl.constexpr,
    X_UNIT: tl.constexpr,
    W_UNIT: tl.constexpr,
    Y_UNIT: tl.constexpr,
    RESIDUAL_UNIT: tl.constexpr,
    Y_RUN: tl.constexpr,
    RESIDUAL_RUN: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    SUBTILES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    DECODE: tl.constexpr,
):
    """M pixels of y, N output channels and C input channels per group.

    FLAT: few channels, whose terms are numbered through; EVEN_C then speaks of all terms (see few_channels.py).
    `y_ptr` is y, or with SPLIT_K > 1 the workspace, `y_part` elements per part: then the epilogue's pointers are None.
    DECODE turns operands into fp32 before the product: the interpreter multiplies bf16 wrongly.
    """
    if X_UNIT > 1:
        x_n, x_h = as_multiple(x_n, X_UNIT), as_multiple(x_h, X_UNIT)
        if PIXELS_LAST:
            x_c = as_multiple(x_c, X_UNIT)
        else:
            x_w, C = as_multiple(x_w, X_UNIT), as_multiple(C, X_UNIT)
    if W_UNIT > 1:
        w_r, w_s = as_multiple(w_r, W_UNIT), as_multiple(w_s, W_UNIT)
        if N_LAST:
            w_c, N = as_multiple(w_c, W_UNIT), as_multiple(N, W_UNIT)
        else:
            w_k, C = as_multiple(w_k, W_UNIT), as_multiple(C, W_UNIT)
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

    group, part, row, col = tile_of_program(M, N, BLOCK_M, BLOCK_N, GROUP_M, SPLIT_K, False)
    rows = row + tl.arange(0, BLOCK_M)
    rows_ok = rows < M
    if not EVEN_M:
        rows = tl.minimum(rows, M - 1)
    n, p, q = pixels_of_rows(rows, P, Q)
    ih, iw = p * stride_h - top, q * stride_w - left

    steps = tl.cdiv(R * S * C, BLOCK_K) if FLAT else R * S * tl.cdiv(C, BLOCK_K)
    part_steps = tl.cdiv(steps, SPLIT_K)
    first = tl.minimum(part * part_steps, steps)
    last = tl.minimum(first + part_steps, steps)
    group = group.to(tl.int64)
    x_ptr += group * C * x_c
    w_ptr += group * N * w_k
    x_rows = offsets_of(n, ih, iw, x_n, x_h, x_w, WIDE)
    if FLAT:
        acc = multiply_terms(
            x_ptr,
            w_ptr,
            x_rows,
            ih,
            iw,
            col,
            N,
            C,
            H,
            W,
            R,
            S,
            dilation_h,
            dilation_w,
            x_c,
            x_h,
            x_w,
            w_k,
            w_c,
            w_r,
            w_s,
            first,
            last,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
            EVEN_N,
            EVEN_C,
            CHANNELS_FIRST,
            PADDED,
            PIXELS_LAST,
            WIDE,
            INPUT_PRECISION,
            DECODE,
        )
    else:
        acc = multiply_taps(
            x_ptr,
            w_ptr,
            x_rows,
            ih,
            iw,
            col,
            N,
            C,
            H,
            W,
            S,
            dilation_h,
            dilation_w,
            x_c,
            x_h,
            x_w,
            w_k,
            w_c,
            w_r,
            w_s,
            first,
            last,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
            EVEN_N,
            EVEN_C,
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
        y_ptr + part.to(tl.int64) * y_part,
        preact_ptr,
        bias_ptr,
        residual_ptr,
        n,
        p,
        q,
        rows_ok,
        group,
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
        SUBTILES,
        ACTIVATION,
        EVEN_M,
        EVEN_N,
        ROWS_LAST,
        Y_RUN,
        RESIDUAL_RUN,
        WIDE,
    )
