"""An operand that never changes, and what kernels keep of it in their own layouts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor


class FrozenOperand:
    """A weight whose values will not change while this object lives, with its packed forms.

    Where a problem says that an operand is frozen, launches get this in its place. A kernel asks for the weight
    in its layout; the first call packs, later ones find the result. Whoever makes a `FrozenOperand` answers for
    the promise and drops the object when the weight changes: packed forms are never refreshed.
    """

    __slots__ = ("_lock", "forms", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.forms: dict[Hashable, Any] = {}
        """Layout -> packed form. Kernels read it directly on their hot path; `pack` alone writes it."""
        self._lock = threading.Lock()

    def pack(self, layout: Hashable, make: Callable[[Tensor], Any]) -> Any:
        """The form kept under `layout`, made by ``make(tensor)`` if this is the first call for it."""
        with self._lock:
            form = self.forms.get(layout)
            if form is None:
                form = self.forms[layout] = make(self.tensor)
            return form

    def bytes(self) -> int:
        """Memory held by packed tensors, beside the weight itself."""
        return sum(form.nbytes for form in self.forms.values() if isinstance(form, Tensor))


def unwrapped(launch: Callable[..., Any]) -> Callable[..., Any]:
    """`launch` for a kernel that takes a frozen B as it takes any other: as a tensor."""

    def launch_with_tensor(a: Tensor, b: FrozenOperand, *addends: Tensor | None) -> Any:
        return launch(a, b.tensor, *addends)

    return launch_with_tensor
