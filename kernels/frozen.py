"""An operand that never changes, and what kernels keep of it in their own layouts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor

from tilewright.locks import RenewedLock

_packing = RenewedLock()
"""Held while any operand is packed: threads that meet a new weight together must not each make a copy of it."""


class FrozenOperand:
    """A weight whose values will not change while this object lives, with its packed forms.

    Where a problem says that an operand is frozen, launches get this in its place. A kernel asks for the weight
    in its layout; the first call packs, later ones find the result. Whoever makes a `FrozenOperand` answers for
    the promise and drops the object when the weight changes: packed forms are never refreshed.
    """

    __slots__ = ("forms", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.forms: dict[Hashable, Any] = {}
        """Layout -> packed form. Kernels read it directly on their hot path; `pack` alone writes it."""

    def pack(self, layout: Hashable, make: Callable[[Tensor], Any]) -> Any:
        """The form kept under `layout`, made by ``make(tensor)`` if this is the first call for it.

        `layout` names what the form depends on beside the tensor and as little more as possible: a form for each
        number of rows would soon take more memory than the model. A form stays until the operand goes, so a
        launch may hand its address to a kernel that runs without the GIL.
        """
        with _packing.current:
            form = self.forms.get(layout)
            if form is None:
                # Forms outlive the call: made under inference mode, they could not be used outside of it.
                with torch.inference_mode(False), torch.no_grad():
                    form = make(self.tensor)
                self.forms[layout] = form
            return form

    def with_tensors(self, copy: Callable[[Tensor], Tensor]) -> FrozenOperand:
        """Such an operand of what `copy` makes of each of its tensors, with nothing packed."""
        return FrozenOperand(copy(self.tensor))

    def tensors(self) -> tuple[Tensor, ...]:
        """What is frozen; a compressed weight has several."""
        return (self.tensor,)

    def bytes(self) -> int:
        """Memory held by packed tensors, beside the weight itself. One form under several names counts once."""
        forms = {id(form): form for form in list(self.forms.values()) if form is not self.tensor}
        return sum(form.nbytes for form in forms.values() if isinstance(form, Tensor))


def unwrapped(launch: Callable[..., Any]) -> Callable[..., Any]:
    """`launch` for a kernel that takes a frozen B as it takes any other: as a tensor."""

    def launch_with_tensor(a: Tensor, b: FrozenOperand, *addends: Tensor | None) -> Any:
        return launch(a, b.tensor, *addends)

    return launch_with_tensor


def thawed(operand: Any) -> Any:
    """The tensor of a frozen operand; anything else as it is."""
    return operand.tensor if isinstance(operand, FrozenOperand) else operand


def thawed_all(operands: Iterable[Any]) -> list[Any]:
    """All operands with the tensors of frozen ones in their places, which may be several."""
    found: list[Any] = []
    for operand in operands:
        found += operand.tensors() if isinstance(operand, FrozenOperand) else (operand,)
    return found
