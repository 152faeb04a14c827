"""The sparse operand that launches get: the stored buffers, and the forms that kernels made of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.frozen import FrozenOperand
from tilewright.kernels.sparse_matmul.formats import Buffers, dense_of, kept, values_of


class SparseOperand(FrozenOperand):
    """A validated sparse weight (N, K), with its packed forms.

    ``operand.form(layout, make)`` keeps what ``make(operand)`` returns. Where the problem is not frozen the operand
    lives for one call, and so do its forms.
    """

    __slots__ = ("buffers", "format", "k", "n")

    def __init__(self, form: str, buffers: Buffers, n: int, k: int) -> None:
        super().__init__(values_of(form, buffers))
        self.format, self.buffers, self.n, self.k = form, buffers, n, k

    def form(self, layout: Hashable, make: Callable[[SparseOperand], Any]) -> Any:
        """The form kept under `layout`, made on first use."""
        found = self.forms.get(layout)
        return self.pack(layout, lambda _: make(self)) if found is None else found

    def with_tensors(self, copy: Callable[[Tensor], Tensor]) -> SparseOperand:
        return SparseOperand(self.format, tuple(map(copy, self.buffers)), self.n, self.k)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.buffers

    def dense(self) -> Tensor:
        """W (N, K) with zeros in it; of the caller's own, nothing is kept."""
        with torch.no_grad():
            return dense_of(self.format, self.buffers, self.n, self.k)

    def kept(self) -> Tensor:
        """Bool (N, K), the stored positions."""
        return kept(self.format, self.buffers, self.n, self.k)

    def bytes(self) -> int:
        """Memory of packed forms, which may be tuples of tensors."""
        found = {id(form): form for form in list(self.forms.values())}
        tensors = [t for form in found.values() for t in (form if isinstance(form, tuple) else (form,))]
        return sum(
            t.untyped_storage().nbytes()
            for t in tensors
            if isinstance(t, Tensor) and t.layout == torch.strided
        )
