"""To and from torch's own sparse tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, FormatError
from tilewright.kernels.sparse_matmul.formats import ceil

if TYPE_CHECKING:
    from tilewright.sparse.weight import SparseWeight

LAYOUTS = ("csr", "bsr", "semi_structured")
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark, once in a process, that these layouts are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def to_torch(weight: SparseWeight, layout: str) -> Tensor:
    if layout == "csr":
        return _csr(weight)
    if layout == "bsr":
        return _bsr(weight)
    if layout == "semi_structured":
        return _semi_structured(weight)
    raise ArgumentError(f"SparseWeight.to_torch: layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")


def _csr(weight: SparseWeight) -> Tensor:
    """All stored positions, stored zeros too."""
    kept, dense = weight.kept(), weight.to_dense()
    crow = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
    with _quiet():
        columns = kept.nonzero()[:, 1]
        return torch.sparse_csr_tensor(crow, columns, dense[kept], weight.shape, check_invariants=False)


def _bsr(weight: SparseWeight) -> Tensor:
    if weight.format != "bsr":
        raise ArgumentError(
            f"SparseWeight.to_torch: the weight is stored as {weight.format}; expected bsr for layout 'bsr'; "
            "compress it as bsr, or take layout 'csr'"
        )
    (r, c), (n, k) = weight.block, weight.shape
    if n % r or k % c:
        raise ArgumentError(
            f"SparseWeight.to_torch: blocks of {r}x{c} reach over the edge of {n}x{k}; expected blocks that divide it, "
            "as torch's bsr has no others; take layout 'csr'"
        )
    crow, col, values = weight.buffers
    with _quiet():
        return torch.sparse_bsr_tensor(crow, col, values, weight.shape, check_invariants=False)


def _semi_structured(weight: SparseWeight) -> Tensor:
    if weight.format != "2:4":
        raise ArgumentError(
            f"SparseWeight.to_torch: the weight is stored as {weight.format}; expected 2:4 for layout "
            "'semi_structured'; compress it as 2:4"
        )
    if weight.device.type != "cuda":
        # Its metadata is the order of CUDA's tensor cores, and torch packs it on such a device alone.
        raise ArgumentError(
            f"SparseWeight.to_torch: the weight is on {weight.device}; expected a CUDA device, where alone torch makes "
            "semi-structured tensors; move it with .to('cuda')"
        )
    from torch.sparse import to_sparse_semi_structured

    found: Tensor = to_sparse_semi_structured(weight.to_dense())
    return found


def plain(weight: Any, operation: str) -> tuple[Tensor, Tensor | None]:
    """A dense weight (N, K), and the positions that it stores; None of a dense tensor, which says nothing of that.

    Of torch's csr and bsr tensors the indices are checked first: torch's own conversion trusts them.
    """
    if not isinstance(weight, Tensor):
        raise ArgumentError(
            f"{operation}: weight is of type {type(weight).__name__}; expected a torch.Tensor (N, K), strided or sparse"
        )
    if type(weight).__name__.startswith("SparseSemiStructured"):
        return weight.to_dense(), None
    if weight.ndim != 2:
        raise ArgumentError(
            f"{operation}: weight has shape {tuple(weight.shape)}; expected (N, K); reshape it, a convolution's with "
            ".flatten(1)"
        )
    if weight.layout == torch.strided:
        return weight, None
    if weight.layout not in _SPARSE:
        raise ArgumentError(
            f"{operation}: weight has layout {weight.layout}; expected a strided or sparse tensor"
        )
    with _quiet():
        try:
            _validate(weight)
        except RuntimeError as error:
            raise FormatError(
                f"{operation}: weight's indices are not those of a {str(weight.layout)[6:]} tensor: "
                f"{str(error).splitlines()[0]}; expected sorted ones within {tuple(weight.shape)}; build it anew"
            ) from None
        coo = weight.detach().to_sparse_coo().coalesce()
        row, column = coo.indices()
        stored = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
        stored[row, column] = True
        return weight.to_dense(), stored


def _validate(weight: Tensor) -> None:
    check: Any
    if weight.layout == torch.sparse_coo:
        check = torch._validate_sparse_coo_tensor_args
        check(weight._indices(), weight._values(), weight.shape, weight.is_coalesced())
        return
    by_rows = weight.layout in (torch.sparse_csr, torch.sparse_bsr)
    pointers = weight.crow_indices() if by_rows else weight.ccol_indices()
    others = weight.col_indices() if by_rows else weight.row_indices()
    check = torch._validate_sparse_compressed_tensor_args
    check(pointers, others, weight.values(), weight.shape, weight.layout)


def blocks_of(mask: Tensor, r: int, c: int) -> Tensor:
    """Bool (ceil(N/r), ceil(K/c)): the blocks that hold any position of a mask (N, K)."""
    n, k = mask.shape
    down, across = ceil(n, r), ceil(k, c)
    wide = torch.nn.functional.pad(mask, (0, across * c - k, 0, down * r - n))
    return wide.view(down, r, across, c).any(3).any(1)
