"""The tiled kernel: one program per output tile, grouped for the L2 cache, and a split-K with a fixed order.

    y[b] = act(a[b] @ b[b] + bias + residual[b])

A program owns one BLOCK_M × BLOCK_N tile of one matrix of the batch and walks K in steps of BLOCK_K,
accumulating in fp32. Programs with neighbouring numbers walk down GROUP_M row blocks before they move to
the next column block (drawn in ../README.md), so that the programs that run together share operands in L2.

With SPLIT_K > 1 a tile belongs to SPLIT_K programs, each with its own stretch of K; they store fp32 sums to
a workspace (batch, SPLIT_K, M, N), which `sum_parts` adds in ascending order. No atomics: the bits are the
same on every run.

EVEN_* say at compile time that a size is a multiple of its block, so that no mask is built. UNIT > 1 says
that sizes and strides (but the operands' unit strides, named by A_ROW and B_ROW) are multiples of it; see
alignment.py. WIDE makes offsets within one matrix 64-bit; offsets to a matrix of the batch always are.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from tilewright.kernels.triton_blocks import as_multiple, load_tile, tile_of_program
from tilewright.kernels.triton_epilogue import store_tile


@triton.jit
def batch_offset(matrix, inner_batch, stride_0, stride_1):
    """Elements from the first matrix of an operand to this one; the batch has two dimensions."""
    outer = (matrix // inner_batch).to(tl.int64)
    inner = (matrix % inner_batch).to(tl.int64)
    return outer * stride_0 + inner * stride_1


@triton.jit
def tiled_matmul(
    a_ptr,
    b_ptr,
    out_ptr,
    preact_ptr,
    bias_ptr,
    residual_ptr,
    M,
    N,
    K,
    inner_batch,
    stride_a0,
    stride_a1,
    stride_am,
    stride_ak,
    stride_b0,
    stride_b1,
    stride_bk,
    stride_bn,
    bias_stride,
    stride_r0,
    stride_r1,
    stride_rm,
    stride_rn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    A_ROW: tl.constexpr,
    B_ROW: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    SUBTILES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    DECODE: tl.constexpr,
):
    """`out_ptr` is y, or with SPLIT_K > 1 the workspace: then the epilogue's pointers are None.

    DECODE turns operands into fp32 before the product: the interpreter multiplies bf16 wrongly.
    """
    if UNIT > 1:
        N, K = as_multiple(N, UNIT), as_multiple(K, UNIT)
        stride_a0, stride_a1 = as_multiple(stride_a0, UNIT), as_multiple(stride_a1, UNIT)
        stride_b0, stride_b1 = as_multiple(stride_b0, UNIT), as_multiple(stride_b1, UNIT)
        if A_ROW:
            stride_am = as_multiple(stride_am, UNIT)
        else:
            M, stride_ak = as_multiple(M, UNIT), as_multiple(stride_ak, UNIT)
        if B_ROW:
            stride_bk = as_multiple(stride_bk, UNIT)
        else:
            stride_bn = as_multiple(stride_bn, UNIT)

    matrix, part, row, col = tile_of_program(M, N, BLOCK_M, BLOCK_N, GROUP_M, SPLIT_K, WIDE)
    rows = row + tl.arange(0, BLOCK_M)
    cols = col + tl.arange(0, BLOCK_N)

    k_tiles = tl.cdiv(K, BLOCK_K)
    part_tiles = tl.cdiv(k_tiles, SPLIT_K)
    first = part * part_tiles
    last = min(first + part_tiles, k_tiles)

    start = first * BLOCK_K
    steps = tl.arange(0, BLOCK_K)
    block_k = tl.full((), BLOCK_K, tl.int32)
    if WIDE:
        start, steps, block_k = start.to(tl.int64), steps.to(tl.int64), block_k.to(tl.int64)

    a_ptr += batch_offset(matrix, inner_batch, stride_a0, stride_a1)
    b_ptr += batch_offset(matrix, inner_batch, stride_b0, stride_b1)
    a_ptrs = a_ptr + start * stride_ak + (rows[:, None] * stride_am + steps[None, :] * stride_ak)
    b_ptrs = b_ptr + start * stride_bk + (steps[:, None] * stride_bk + cols[None, :] * stride_bn)
    rows_ok = rows[:, None] < M
    cols_ok = cols[None, :] < N

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k_tile in range(first, last):
        left = K - k_tile * BLOCK_K
        a = load_tile(a_ptrs, rows_ok, steps[None, :] < left, EVEN_M, EVEN_K)
        b = load_tile(b_ptrs, steps[:, None] < left, cols_ok, EVEN_K, EVEN_N)
        if DECODE:
            a, b = a.to(tl.float32), b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=INPUT_PRECISION)
        a_ptrs += block_k * stride_ak
        b_ptrs += block_k * stride_bk

    if residual_ptr is not None:
        residual_ptr += batch_offset(matrix, inner_batch, stride_r0, stride_r1)
    matrix = matrix.to(tl.int64)
    out_ptr += (matrix * SPLIT_K + part) * M * N
    if preact_ptr is not None:
        preact_ptr += matrix * M * N
    store_tile(
        acc,
        out_ptr,
        preact_ptr,
        bias_ptr,
        residual_ptr,
        rows * N,
        rows * stride_rm,
        rows < M,
        col,
        N,
        1,
        bias_stride,
        stride_rn,
        BLOCK_M,
        BLOCK_N,
        SUBTILES,
        ACTIVATION,
        EVEN_M,
        EVEN_N,
        False,
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
    inner_batch,
    bias_stride,
    stride_r0,
    stride_r1,
    stride_rm,
    stride_rn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    WIDE: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """y = act(sum over parts + bias + residual): finishes a split-K product, parts in ascending order."""
    matrix, _, row, col = tile_of_program(M, N, BLOCK_M, BLOCK_N, 1, 1, WIDE)
    rows = row + tl.arange(0, BLOCK_M)
    cols = col + tl.arange(0, BLOCK_N)

    if residual_ptr is not None:
        residual_ptr += batch_offset(matrix, inner_batch, stride_r0, stride_r1)
    matrix = matrix.to(tl.int64)
    ptrs = parts_ptr + matrix * SPLIT_K * M * N + (rows[:, None] * N + cols[None, :])
    part_size = tl.full((), 1, tl.int64) * M * N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(SPLIT_K):
        acc += load_tile(ptrs, rows[:, None] < M, cols[None, :] < N, EVEN_M, EVEN_N)
        ptrs += part_size

    y_ptr += matrix * M * N
    if preact_ptr is not None:
        preact_ptr += matrix * M * N
    store_tile(
        acc,
        y_ptr,
        preact_ptr,
        bias_ptr,
        residual_ptr,
        rows * N,
        rows * stride_rm,
        rows < M,
        col,
        N,
        1,
        bias_stride,
        stride_rn,
        BLOCK_M,
        BLOCK_N,
        1,
        ACTIVATION,
        EVEN_M,
        EVEN_N,
        False,
    )
