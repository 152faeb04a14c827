"""Proves a bound kernel right on one problem before it may be timed.

What is checked: the outputs against the operation's own oracle (float64 reference and error bound), that they
share no memory with the inputs, and that the inputs still hold what they held.

An output element that the kernel never writes must not pass by luck, so that memory is poisoned with NaN. A
launch allocates its outputs itself, out of our sight, and whatever the allocator hands out may still hold the
right answer of the run before. So while a kernel is proved, a dispatch mode sees every ``torch.empty`` and
its relatives and fills what they return. Should a launch get memory in another way, its output is not among
what was poisoned; then it must be right twice, on two different random inputs, so that leftovers of the first
run are wrong in the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tilewright.kernels.frozen import FrozenOperand, thawed_all
from tilewright.kernels.interface import Launch

Oracle = Callable[[Sequence[Any]], str | None]
"""Judges outputs: None if right, else what is wrong."""

_UNINITIALIZED = {
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::empty_permuted",
    "aten::new_empty",
    "aten::new_empty_strided",
}


class Poison(TorchDispatchMode):
    """Inside, every tensor that torch allocates uninitialized holds NaN (integers: their maximum)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.name().partition(".")[0] in _UNINITIALIZED and out.layout == torch.strided:
            if out.is_floating_point() or out.is_complex():
                out.fill_(float("nan"))
            elif out.dtype != torch.bool:
                out.fill_(torch.iinfo(out.dtype).max)
            # Kept alive, so that an address found here belongs to this allocation and to no later one.
            self._kept.append(out)
        return out

    def poisoned(self, out: Tensor) -> bool:
        """Whether the tensor lies in memory that was poisoned when it was allocated."""
        address = out.untyped_storage().data_ptr()
        return any(kept.untyped_storage().data_ptr() == address for kept in self._kept)


def prove(
    bind: Callable[[], Launch],
    fresh_inputs: Callable[[], Sequence[Any]],
    oracle: Callable[[Sequence[Any]], Oracle],
    *,
    trusted_allocator: bool = False,
) -> str | None:
    """None if the kernel that `bind` returns is right, else a sentence that says how it is wrong.

    Args:
        bind: binds the kernel; called once for every set of inputs.
        fresh_inputs: returns a set of inputs; a second call returns a different one. Frozen operands are packed
            anew, so that no kernel is judged by a form that another one packed.
        oracle: for a set of inputs, the judge of its outputs.
        trusted_allocator: the vendor's code, which allocates inside torch: one run, no poison.
    """
    runs = 1
    while runs:
        runs -= 1
        shared = fresh_inputs()
        judge = oracle(shared)
        tensors = thawed_all(shared)
        before = [x.clone() if isinstance(x, Tensor) else None for x in tensors]
        inputs = [x.with_tensors(lambda t: t) if isinstance(x, FrozenOperand) else x for x in shared]
        poison = Poison()
        try:
            launch = bind()
            if trusted_allocator:
                returned = launch(*inputs)
            else:
                with poison:
                    returned = launch(*inputs)
            if any(isinstance(x, Tensor) and x.is_cuda for x in tensors):
                torch.cuda.synchronize()
        except Exception as error:
            return f"raised {type(error).__name__}: {str(error)[:300]}"
        outputs = returned if isinstance(returned, tuple) else (returned,)
        complaint = judge(outputs) or _touched(tensors, before) or _aliased(tensors, _forms(inputs), outputs)
        if complaint is not None:
            return complaint
        seen = all(out.numel() == 0 or poison.poisoned(out) for out in outputs)
        if not (trusted_allocator or seen):
            trusted_allocator, runs = True, 1
    return None


def _touched(inputs: Sequence[Any], before: Sequence[Tensor | None]) -> str | None:
    for index, (now, then) in enumerate(zip(inputs, before, strict=True)):
        if then is not None and not torch.equal(now, then):
            return f"changed its input {index}"
    return None


def _forms(inputs: Sequence[Any]) -> list[Tensor]:
    """What was packed of frozen operands, where it lies in memory that torch can tell."""
    packed = [form for x in inputs if isinstance(x, FrozenOperand) for form in x.forms.values()]
    return [form for form in packed if isinstance(form, Tensor) and form.layout == torch.strided]


def _aliased(inputs: Sequence[Any], forms: Sequence[Tensor], outputs: Sequence[Tensor]) -> str | None:
    held = [x for x in (*inputs, *forms) if isinstance(x, Tensor) and x.numel()]
    addresses = [x.untyped_storage().data_ptr() for x in held]
    for out in outputs:
        address = out.untyped_storage().data_ptr()
        if out.numel() and address in addresses:
            return "returned memory that is not its own"
        addresses.append(address)
    return None
