"""compress: from a dense or sparse tensor to the stored formats."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, DtypeError, ShapeError
from tilewright.kernels.sparse_matmul.formats import (
    FORMATS,
    Buffers,
    bitmap_bits,
    ceil,
    indices_2to4,
    sample,
)
from tilewright.kernels.sparse_matmul.validate import MOST, VALUE_DTYPES
from tilewright.sparse.convert import blocks_of, plain
from tilewright.sparse.weight import SparseWeight


def compress(
    weight: Tensor | SparseWeight,
    format: str,
    *,
    block: tuple[int, int] | None = None,
    mask: Tensor | None = None,
) -> SparseWeight:
    """A weight in one of the stored formats.

    Args:
        weight: W (N, K), dense, or any sparse tensor of torch's (coo, csr, csc, bsr, bsc, semi-structured), or a
            `SparseWeight` to be stored otherwise; float32, bfloat16, float16 or float64.
        format: ``"2:4"``, ``"bsr"`` or ``"bitmap"``.
        block: (rows, columns) of a block of bsr, of any size; those at the edge are filled with zeros. Default
            (16, 16).
        mask: bool (N, K), the positions to store. Default: those that a sparse tensor stores, of a dense one those that
            are not zero.

    Returns:
        A weight of the same values, detached from any graph. ``bsr`` stores whole blocks, ``2:4`` two of each four
        columns, so positions that the mask leaves out may be stored, as zeros.

    Raises:
        ArgumentError, DtypeError, ShapeError: arguments that fit nothing above; for ``2:4`` a weight that keeps more
            than two of four.
        FormatError: a sparse tensor with indices that are out of range, unsorted or double.
    """
    if format not in FORMATS:
        raise ArgumentError(f"compress: format is {format!r}; expected one of {', '.join(FORMATS)}")
    r, c = _checked_block(format, block)
    if isinstance(weight, SparseWeight):
        dense, stored = weight.to_dense(), weight.kept()
    else:
        dense, found = plain(weight, "compress")
        stored = found if found is not None else dense != 0
    if dense.dtype not in VALUE_DTYPES:
        raise DtypeError(
            f"compress: weight has dtype {str(dense.dtype)[6:]}; expected float32, bfloat16, float16 or float64; "
            "convert it"
        )
    if mask is not None:
        stored = _checked_mask(mask, dense)
    n, k = dense.shape
    if max(n, k) > MOST:
        raise ShapeError(f"compress: weight has shape ({n}, {k}); expected sizes up to {MOST}")
    with torch.no_grad():
        dense = torch.where(stored, dense.detach(), 0)
        if format == "2:4":
            buffers = _two_of_four(dense, stored)
        elif format == "bsr":
            buffers = _bsr(dense, stored, r, c)
        else:
            buffers = _bitmap(dense, stored)
    # Checked like any other: a mistake here would be an out-of-bounds read there.
    return SparseWeight(format, (n, k), buffers)


def _checked_block(format: str, block: Any) -> tuple[int, int]:
    if block is None:
        return 16, 16
    sizes = tuple(block) if isinstance(block, (tuple, list)) else ()
    if len(sizes) != 2 or any(type(size) is not int or not 0 < size <= 1 << 16 for size in sizes):
        raise ArgumentError(f"compress: block is {block!r}; expected (rows, columns), each 1 to {1 << 16}")
    if format != "bsr":
        raise ArgumentError(
            f"compress: block is {block!r}; expected None, as {format} has no blocks; take bsr"
        )
    return sizes


def _checked_mask(mask: Any, dense: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = str(mask.dtype)[6:] if isinstance(mask, Tensor) else type(mask).__name__
        raise ArgumentError(f"compress: mask is {got}; expected a tensor of bool; convert it with .bool()")
    if mask.shape != dense.shape:
        raise ShapeError(
            f"compress: mask has shape {tuple(mask.shape)}; expected {tuple(dense.shape)}, the weight's"
        )
    return mask.to(dense.device)


def _pointers(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()


def _bitmap(dense: Tensor, stored: Tensor) -> Buffers:
    return bitmap_bits(stored), _pointers(stored.sum(1)), dense[stored]


def _bsr(dense: Tensor, stored: Tensor, r: int, c: int) -> Buffers:
    blocks = blocks_of(stored, r, c)
    row, col = blocks.nonzero().unbind(1)
    crow, col = _pointers(blocks.sum(1)), col.int()
    shape = dense.new_empty((row.shape[0], r, c))
    return crow, col, sample("bsr", (crow, col, shape), dense.shape[0], dense.shape[1], dense)


def _two_of_four(dense: Tensor, stored: Tensor) -> Buffers:
    n, k = dense.shape
    groups = ceil(k, 4)
    wide = torch.nn.functional.pad(stored, (0, 4 * groups - k)).view(n, groups, 4)
    full = wide.sum(2) > 2
    if bool(full.any()):
        row, group = (int(i) for i in full.nonzero()[0])
        raise ArgumentError(
            f"compress: weight keeps {int(wide[row, group].sum())} of columns {4 * group} to {4 * group + 3} in row "
            f"{row}; expected at most two of each four; prune it to 2:4 first (tilewright.sparse.prune)"
        )
    # What is stored comes first, then what is not, each in order of the columns: the first two are what is kept.
    order = torch.argsort(wide.to(torch.uint8), dim=2, descending=True, stable=True)
    positions = order[:, :, :2].sort(dim=2).values
    indices = indices_2to4(positions)
    return sample("2:4", (dense.new_empty((n, 2 * groups)), indices), n, k, dense), indices
