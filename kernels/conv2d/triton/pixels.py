"""Pixels of an image: where they lie, how a tile of them is finished and stored, and how parts of it are summed.

All run inside a kernel.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from tilewright.kernels.triton_blocks import load_tile, tile_of_program
from tilewright.kernels.triton_epilogue import store_tile


@triton.jit
def pixels_of_rows(rows, HEIGHT, WIDTH):
    """(n, p, q) of pixels that are numbered image by image, row by row."""
    q = rows % WIDTH
    rest = rows // WIDTH
    return rest // HEIGHT, rest % HEIGHT, q


@triton.jit
def offsets_of(n, p, q, stride_n, stride_h, stride_w, WIDE: tl.constexpr):
    """Elements from a tensor's first to pixels (n, p, q) of its first channel."""
    if WIDE:
        n, p, q = n.to(tl.int64), p.to(tl.int64), q.to(tl.int64)
    return n * stride_n + p * stride_h + q * stride_w


@triton.jit
def store_pixels(
    acc,
    y_ptr,
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SUBTILES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    Y_RUN: tl.constexpr,
    RESIDUAL_RUN: tl.constexpr,
    WIDE: tl.constexpr,
):
    """`store_tile` for a tile of pixels (n, p, q) and channels `col` … of a group of N."""
    y_rows = offsets_of(n, p, q, y_n, y_h, y_w, WIDE)
    if Y_RUN > 1:
        y_rows = tl.max_contiguous(tl.multiple_of(y_rows, Y_RUN), Y_RUN)
    residual_rows = offsets_of(n, p, q, residual_n, residual_h, residual_w, WIDE)
    if RESIDUAL_RUN > 1:
        residual_rows = tl.max_contiguous(tl.multiple_of(residual_rows, RESIDUAL_RUN), RESIDUAL_RUN)
    y_ptr += group * N * y_k
    if preact_ptr is not None:
        preact_ptr += group * N * y_k
    if bias_ptr is not None:
        bias_ptr += group * N * bias_stride
    if residual_ptr is not None:
        residual_ptr += group * N * residual_k
    if WIDE:
        col = col.to(tl.int64)
    store_tile(
        acc,
        y_ptr,
        preact_ptr,
        bias_ptr,
        residual_ptr,
        y_rows,
        residual_rows,
        rows_ok,
        col,
        N,
        y_k,
        bias_stride,
        residual_k,
        BLOCK_M,
        BLOCK_N,
        SUBTILES,
        ACTIVATION,
        EVEN_M,
        EVEN_N,
        ROWS_LAST,
    )


@triton.jit
def sum_parts(
    parts_ptr,
    y_ptr,
    preact_ptr,
    bias_ptr,
    residual_ptr,
    M,
    N,
    P,
    Q,
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
    SPLIT_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """y = act(sum over parts + bias + residual) for all N channels; parts in ascending order."""
    _, _, row, col = tile_of_program(M, N, BLOCK_M, BLOCK_N, 1, 1, False)
    rows = row + tl.arange(0, BLOCK_M)
    cols = col + tl.arange(0, BLOCK_N)
    n, p, q = pixels_of_rows(rows, P, Q)

    ptrs = parts_ptr + (rows.to(tl.int64)[:, None] * N + cols[None, :])
    part_size = tl.full((), 1, tl.int64) * M * N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(SPLIT_K):
        acc += load_tile(ptrs, rows[:, None] < M, cols[None, :] < N, EVEN_M, EVEN_N)
        ptrs += part_size

    store_pixels(
        acc,
        y_ptr,
        preact_ptr,
        bias_ptr,
        residual_ptr,
        n,
        p,
        q,
        rows < M,
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
        1,
        1,
        WIDE,
    )
