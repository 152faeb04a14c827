"""Checks of a stored weight's buffers, which may come from anywhere: a state dict, a file, a network.

`check_layout` looks at shapes, dtypes and devices and runs nothing; `check_contents` reads the integers (and what must
be zero of the values). A kernel is given no buffers that have not passed both, so it need not check an index.
Every complaint is a `FormatError` that names the buffer, what it got, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from tilewright.errors import FormatError
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.kernels.sparse_matmul.formats import (
    BUFFERS,
    FORMAT_VERSION,
    FORMATS,
    WORD,
    ceil,
    nibbles_2to4,
)

VALUE_DTYPES = KERNEL_DTYPES | {torch.float64}
MOST = 2**31 - 1
"""The largest size and number of stored elements: pointers and indices are int32."""

_REMEDY = "make the weight anew with tilewright.sparse.compress"


def check_format(operation: str, form: Any) -> None:
    if not isinstance(form, str) or form not in FORMATS:
        raise FormatError(
            f"{operation}: format is {form!r:.60}; expected one of {', '.join(FORMATS)}; {_REMEDY}"
        )


def check_version(operation: str, version: Any) -> None:
    if type(version) is not int or version != FORMAT_VERSION:
        raise FormatError(
            f"{operation}: format_version is {version!r:.40}; expected {FORMAT_VERSION}; read the weight with the "
            "version of tilewright that wrote it, and compress it anew"
        )


def check_layout(operation: str, form: str, buffers: Sequence[Any], n: int, k: int) -> None:
    """Raises FormatError unless the buffers have the shapes and dtypes of a weight (N, K) in this format."""
    names = BUFFERS[form]
    if len(buffers) != len(names):
        raise FormatError(
            f"{operation}: got {len(buffers)} buffers; expected {', '.join(names)} of a {form} weight; {_REMEDY}"
        )
    for name, size in (("N", n), ("K", k)):
        if size < 0 or size > MOST:
            raise FormatError(f"{operation}: {name} is {size}; expected 0 to {MOST}; {_REMEDY}")
    first = buffers[0]
    for name, buffer in zip(names, buffers, strict=True):
        if not isinstance(buffer, Tensor):
            _bad(operation, name, f"is of type {type(buffer).__name__}", "a torch.Tensor")
        if buffer.layout != torch.strided or buffer.is_nested or not buffer.is_contiguous():
            _bad(operation, name, "is not contiguous", "a contiguous strided tensor", "call .contiguous()")
        if buffer.device != first.device:
            _bad(operation, name, f"is on {buffer.device}", f"{first.device}, where {names[0]} is", "move it")
    {"2:4": _layout_2to4, "bsr": _layout_bsr, "bitmap": _layout_bitmap}[form](operation, buffers, n, k)


def check_contents(operation: str, form: str, buffers: Sequence[Tensor], n: int, k: int) -> None:
    """Raises FormatError unless what the buffers say is true of a weight (N, K). They passed `check_layout`."""
    with torch.no_grad():
        buffers = [buffer.detach() for buffer in buffers]
        {"2:4": _contents_2to4, "bsr": _contents_bsr, "bitmap": _contents_bitmap}[form](
            operation, buffers, n, k
        )


def _bad(operation: str, name: str, got: str, expected: str, remedy: str = _REMEDY) -> NoReturn:
    raise FormatError(f"{operation}: {name} {got}; expected {expected}; {remedy}")


def _check_dtype(operation: str, name: str, buffer: Tensor, dtype: torch.dtype) -> None:
    if buffer.dtype != dtype:
        _bad(operation, name, f"has dtype {str(buffer.dtype)[6:]}", str(dtype)[6:])


def _check_values_dtype(operation: str, values: Tensor) -> None:
    if values.dtype not in VALUE_DTYPES:
        _bad(
            operation,
            "values",
            f"has dtype {str(values.dtype)[6:]}",
            "float32, bfloat16, float16 or float64",
            "convert it",
        )


def _check_shape(operation: str, name: str, buffer: Tensor, shape: tuple[int, ...], why: str) -> None:
    if tuple(buffer.shape) != shape:
        _bad(operation, name, f"has shape {tuple(buffer.shape)}", f"{shape}, {why}")


def _check_dim(operation: str, name: str, buffer: Tensor, dim: int, what: str) -> None:
    if buffer.ndim != dim:
        _bad(operation, name, f"has shape {tuple(buffer.shape)}", what)


def _layout_2to4(operation: str, buffers: Sequence[Tensor], n: int, k: int) -> None:
    values, indices = buffers
    groups = ceil(k, 4)
    _check_values_dtype(operation, values)
    _check_dtype(operation, "indices", indices, torch.uint8)
    _check_shape(operation, "values", values, (n, 2 * groups), "two of each four columns")
    _check_shape(operation, "indices", indices, (n, ceil(groups, 2)), "four bits for each four columns")


def _layout_bsr(operation: str, buffers: Sequence[Tensor], n: int, k: int) -> None:
    crow, col, values = buffers
    _check_dtype(operation, "crow", crow, torch.int32)
    _check_dtype(operation, "col", col, torch.int32)
    _check_values_dtype(operation, values)
    _check_dim(operation, "values", values, 3, "(blocks, rows of a block, columns of a block)")
    count, r, c = values.shape
    if r < 1 or c < 1:
        _bad(operation, "values", f"has blocks of {r} x {c}", "at least one row and column")
    _check_shape(
        operation, "crow", crow, (ceil(n, r) + 1,), f"one pointer for each {r} of {n} rows and one more"
    )
    _check_shape(operation, "col", col, (count,), "one column for each block of values")
    if count > min(ceil(n, r) * ceil(k, c), MOST):
        _bad(
            operation, "values", f"has {count} blocks", f"at most {ceil(n, r) * ceil(k, c)}, the whole weight"
        )


def _layout_bitmap(operation: str, buffers: Sequence[Tensor], n: int, k: int) -> None:
    bits, row, values = buffers
    _check_dtype(operation, "bits", bits, torch.int64)
    _check_dtype(operation, "row", row, torch.int32)
    _check_values_dtype(operation, values)
    _check_shape(operation, "bits", bits, (n, ceil(k, WORD)), f"one bit for each of {k} columns")
    _check_shape(operation, "row", row, (n + 1,), f"one pointer for each of {n} rows and one more")
    _check_dim(operation, "values", values, 1, "one dimension")
    if values.shape[0] > min(n * k, MOST):
        _bad(operation, "values", f"has {values.shape[0]} elements", f"at most {min(n * k, MOST)}")


def _first(bad: Tensor) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(int(i) for i in torch.unravel_index(bad.flatten().int().argmax(), bad.shape))


def _check_pointers(operation: str, name: str, pointers: Tensor, count: int, of: str) -> None:
    """From 0 to `count`, never down. int64: differences of hostile int32 may not fit."""
    wide = pointers.long()
    if int(wide[0]) != 0:
        _bad(operation, f"{name}[0]", f"is {int(wide[0])}", "0")
    if int(wide[-1]) != count:
        _bad(operation, f"{name}[{len(wide) - 1}]", f"is {int(wide[-1])}", f"{count}, the number of {of}")
    falling = wide[1:] < wide[:-1]
    if bool(falling.any()):
        at = _first(falling)[0] + 1
        _bad(
            operation, f"{name}[{at}]", f"is {int(wide[at])}", f"at least {int(wide[at - 1])}, the one before"
        )


def _contents_2to4(operation: str, buffers: Sequence[Tensor], n: int, k: int) -> None:
    values, indices = buffers
    groups = ceil(k, 4)
    every = nibbles_2to4(indices, None)
    first, second = every & 3, (every >> 2) & 3
    wrong = (first >= second)[:, :groups]
    if bool(wrong.any()):
        at, group = _first(wrong)
        got = f"{int(first[at, group])} and {int(second[at, group])}"
        place = f"indices of row {at}, columns {4 * group} to {4 * group + 3},"
        _bad(operation, place, f"are {got}", "two different ones of 0 to 3, the smaller first")
    if bool((every[:, groups:] != 0).any()):
        _bad(operation, "indices", "has bits set behind the last column", "zeros there")
    if k % 4 and n:
        last = torch.stack((first[:, groups - 1], second[:, groups - 1]), dim=-1)
        wrong = (last >= k % 4) & (values[:, -2:] != 0)
        if bool(wrong.any()):
            at, which = _first(wrong)
            got = f"is {float(values[at, 2 * groups - 2 + which]):g} behind column {k - 1}"
            _bad(operation, f"values[{at}, {2 * groups - 2 + which}]", got, "0 there")


def _contents_bsr(operation: str, buffers: Sequence[Tensor], n: int, k: int) -> None:
    crow, col, values = buffers
    count, r, c = values.shape
    across = ceil(k, c)
    _check_pointers(operation, "crow", crow, count, "blocks")
    outside = (col < 0) | (col >= across)
    if bool(outside.any()):
        at = _first(outside)[0]
        _bad(operation, f"col[{at}]", f"is {int(col[at])}", f"0 to {across - 1}, a column of blocks")
    if count > 1:
        starts = torch.zeros(count + 1, dtype=torch.bool, device=crow.device)
        starts[crow.long()] = True
        wrong = (col[1:] <= col[:-1]) & ~starts[1:count]
        if bool(wrong.any()):
            at = _first(wrong)[0] + 1
            _bad(
                operation,
                f"col[{at}]",
                f"is {int(col[at])}",
                f"more than {int(col[at - 1])}, sorted in its row",
            )
    if count and n % r and bool((values[int(crow[-2]) :, n % r :] != 0).any()):
        _bad(operation, "values", f"is not zero behind row {n - 1}", "zeros there")
    if count and k % c and bool((values[col == across - 1][:, :, k % c :] != 0).any()):
        _bad(operation, "values", f"is not zero behind column {k - 1}", "zeros there")


_POPULATION = [bin(octet).count("1") for octet in range(256)]


def _contents_bitmap(operation: str, buffers: Sequence[Tensor], n: int, k: int) -> None:
    bits, row, values = buffers
    _check_pointers(operation, "row", row, values.shape[0], "values")
    if k % WORD and n and bool(((bits[:, -1] >> (k % WORD)) != 0).any()):
        at = _first((bits[:, -1] >> (k % WORD)) != 0)[0]
        _bad(
            operation,
            f"bits[{at}, {bits.shape[1] - 1}]",
            f"has bits set behind column {k - 1}",
            "zeros there",
        )
    table = torch.tensor(_POPULATION, dtype=torch.uint8, device=bits.device)
    ones = table[bits.view(torch.uint8).int()].sum(-1, dtype=torch.int64)
    wrong = ones != row[1:].long() - row[:-1].long()
    if bool(wrong.any()):
        at = _first(wrong)[0]
        got = f"says that row {at} has {int(row[at + 1]) - int(row[at])} values"
        _bad(operation, "row", got, f"{int(ones[at])}, the number of its bits")
