"""What Triton kernels of several operations are built from: masked tiles, alignment, the order of programs.

All run inside a kernel. Importing this file imports Triton.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_tile(ptrs, row_ok, col_ok, EVEN_ROWS: tl.constexpr, EVEN_COLS: tl.constexpr):
    """A tile of an operand, zero outside the matrix. Both operands are masked in K: 0 · NaN is NaN."""
    if EVEN_ROWS and EVEN_COLS:
        return tl.load(ptrs)
    elif EVEN_ROWS:  # noqa: RET505 - Triton compiles only one branch, if it sees that they exclude each other
        return tl.load(ptrs, mask=col_ok, other=0.0)
    elif EVEN_COLS:
        return tl.load(ptrs, mask=row_ok, other=0.0)
    else:
        return tl.load(ptrs, mask=row_ok & col_ok, other=0.0)


@triton.jit
def as_multiple(value, UNIT: tl.constexpr):
    """`value`, a multiple of UNIT, in a form from which the compiler knows that it is one."""
    return value // UNIT * UNIT


@triton.jit
def tile_of_program(
    M,
    N,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
    PARTS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """(matrix, part, row, col): which tile of which matrix this program has, by its first row and column.

    program = (matrix · PARTS + part) · tiles + tile, and tiles go down GROUP_M row blocks before they go right.
    """
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    program = tl.program_id(0)
    tile = program % (tiles_m * tiles_n)
    part = (program // (tiles_m * tiles_n)) % PARTS
    matrix = program // (tiles_m * tiles_n * PARTS)

    group = tile // (GROUP_M * tiles_n)
    in_group = tile % (GROUP_M * tiles_n)
    group_rows = min(tiles_m - group * GROUP_M, GROUP_M)
    row = (group * GROUP_M + in_group % group_rows) * BLOCK_M
    col = in_group // group_rows * BLOCK_N
    if WIDE:
        row, col = row.to(tl.int64), col.to(tl.int64)
    return matrix, part, row, col
