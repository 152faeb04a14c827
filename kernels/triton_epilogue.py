"""The epilogue of ``kernels/epilogue.py`` for Triton kernels, a tile at a time.

Both functions run inside a kernel. They work on fp32, add bias and then residual, and round once, at the
store.
Importing this file imports Triton.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """act(z) for fp32 z; ACTIVATION is a name of ``kernels.epilogue.ACTIVATIONS``."""
    if ACTIVATION == "relu":
        # Not tl.maximum: its default returns 0 for NaN, torch's relu keeps NaN.
        z = tl.where(z < 0.0, 0.0, z)
    elif ACTIVATION == "gelu":
        z = 0.5 * z * (1.0 + tl.math.erf(z * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # (1 + tanh u) / 2 = 1 / (1 + exp(-2u)): one exponential, no cancellation, and no libdevice call,
        # which the interpreter could not run. The constant is 2·sqrt(2/pi).
        z = z / (1.0 + tl.exp(-1.5957691216057308 * (z + 0.044715 * z * z * z)))
    elif ACTIVATION == "silu":
        z = z / (1.0 + tl.exp(-z))
    return z


@triton.jit
def store_tile(
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
    y_stride_n,
    bias_stride,
    residual_stride_n,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SUBTILES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    ROWS_LAST: tl.constexpr,
):
    """Finishes the fp32 tile `acc`, whose columns begin at `col` of N, and stores it.

    `y_rows` and `residual_rows` are the offsets at which the tile's rows begin in y (and the pre-activation, which
    lies like y) and in the residual; `rows_ok` says which rows exist. bias_ptr, residual_ptr and preact_ptr are None
    where there is none. Offsets are int64 where 32 bits would not reach.

    SUBTILES (1, 2 or 4) column ranges are finished one after the other: a whole 128 × 256 tile with its residual
    does not fit in the registers. ROWS_LAST: y is contiguous down its rows, so neighbouring threads take those.
    """
    if SUBTILES == 1:
        cols = col + tl.arange(0, BLOCK_N)
        if ROWS_LAST:
            acc = tl.trans(acc)
            rows_ok, y_rows, cols = rows_ok[None, :], y_rows[None, :], cols[:, None]
        else:
            rows_ok, y_rows, cols = rows_ok[:, None], y_rows[:, None], cols[None, :]
        if EVEN_M and EVEN_N:
            mask = None
        elif EVEN_M:
            mask = cols < N
        elif EVEN_N:
            mask = rows_ok
        else:
            mask = rows_ok & (cols < N)
        if bias_ptr is not None:
            if EVEN_N:
                bias = tl.load(bias_ptr + cols * bias_stride)
            else:
                bias = tl.load(bias_ptr + cols * bias_stride, mask=cols < N, other=0.0)
            acc += bias.to(tl.float32)
        if residual_ptr is not None:
            if ROWS_LAST:
                residual_ptrs = residual_ptr + residual_rows[None, :] + cols * residual_stride_n
            else:
                residual_ptrs = residual_ptr + residual_rows[:, None] + cols * residual_stride_n
            acc += tl.load(residual_ptrs, mask=mask).to(tl.float32)
        offsets = y_rows + cols * y_stride_n
        if preact_ptr is not None:
            tl.store(preact_ptr + offsets, acc.to(preact_ptr.dtype.element_ty), mask=mask)
        y = activate(acc, ACTIVATION)
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
    else:
        HALF: tl.constexpr = BLOCK_N // 2
        halves = tl.permute(tl.reshape(acc, (BLOCK_M, 2, HALF)), (0, 2, 1))
        left, right = tl.split(halves)
        store_tile(
            left,
            y_ptr,
            preact_ptr,
            bias_ptr,
            residual_ptr,
            y_rows,
            residual_rows,
            rows_ok,
            col,
            N,
            y_stride_n,
            bias_stride,
            residual_stride_n,
            BLOCK_M,
            HALF,
            SUBTILES // 2,
            ACTIVATION,
            EVEN_M,
            EVEN_N,
            ROWS_LAST,
        )
        store_tile(
            right,
            y_ptr,
            preact_ptr,
            bias_ptr,
            residual_ptr,
            y_rows,
            residual_rows,
            rows_ok,
            col + HALF,
            N,
            y_stride_n,
            bias_stride,
            residual_stride_n,
            BLOCK_M,
            HALF,
            SUBTILES // 2,
            ACTIVATION,
            EVEN_M,
            EVEN_N,
            ROWS_LAST,
        )
