"""A weight's buffers on their way to a kernel: validated, and packed, once for as long as they stay what they are.

An operation takes plain tensors, which anybody may have filled. Reading them takes as long as a small product, so what
was found is remembered with the tensors themselves, by weak references: torch counts writes to a tensor, and a counted
write has the buffers read anew. Packed forms of the weight live and die with that memory. Writes that torch does not
count (through ``.data`` or NumPy) are noticed if they change one of some words spread over the values, and buffers made
in inference mode, where nothing is counted, are read on every call.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.kernels.sparse_matmul.formats import Buffers, values_of
from tilewright.kernels.sparse_matmul.operand import SparseOperand
from tilewright.kernels.sparse_matmul.validate import check_contents
from tilewright.tuner.device import core

_core = cache(core)  # looking for it takes 2 µs
_SAMPLES = 64
_RESTLESS = 2
"""So many states in a row that served one call each (training), and the next is packed only once seen again."""


class _Known:
    """Buffers that were found valid, and as what."""

    __slots__ = ("calls", "generation", "operand", "references", "restless", "sample", "state")

    def __init__(self, references: list[Any], state: Any, operand: SparseOperand, restless: int) -> None:
        self.references, self.state, self.operand, self.restless = references, state, operand, restless
        self.sample = _sample(operand.tensor)
        self.generation = dispatch.generation()
        self.calls = 0

    def holds(self, buffers: Buffers, n: int, k: int) -> bool:
        """Whether these are the buffers, unchanged. On every call's way: loops are written out, nothing is built."""
        if self.state[:2] != (n, k):
            return False
        for reference, buffer, (version, address, shape) in zip(
            self.references, buffers, self.state[2], strict=True
        ):
            if (
                reference() is not buffer
                or buffer._version != version
                or buffer.data_ptr() != address
                or buffer.shape != shape
            ):
                return False
        return self.sample == _sample(self.operand.tensor)


_known: dict[int, _Known] = {}


def operand_of(operation: str, form: str, buffers: Buffers, n: int, k: int) -> tuple[SparseOperand, bool]:
    """The validated operand of buffers that passed `check_layout`, and whether packed forms of it may be kept.

    Raises:
        FormatError: the contents are not those of a weight (N, K) in this format.
    """
    known = _known.get(id(values_of(form, buffers)))
    if known is None or known.operand.format != form or not known.holds(buffers, n, k):
        if any(buffer.is_inference() for buffer in buffers):
            check_contents(operation, form, buffers, n, k)
            return SparseOperand(form, buffers, n, k), False
        # Taken down before the buffers are read: a write in between is then seen by the next call.
        state = (n, k, tuple((buffer._version, buffer.data_ptr(), buffer.shape) for buffer in buffers))
        check_contents(operation, form, buffers, n, k)
        same = known is not None and known.references[0]() is buffers[0]
        restless = known.restless + 1 if known is not None and same and known.calls == 1 else 0
        known = _remember(form, buffers, n, k, state, restless)
    known.calls += 1
    if known.generation != dispatch.generation():
        # Other kernels may be chosen now, which want other forms.
        known.generation = dispatch.generation()
        known.operand = known.operand.with_tensors(lambda tensor: tensor)
    lasting = known.restless < _RESTLESS or known.calls > 1
    if lasting and settings.current().pack:
        return known.operand, True
    return SparseOperand(form, known.operand.buffers, n, k), False


def _remember(form: str, buffers: Buffers, n: int, k: int, state: Any, restless: int) -> _Known:
    key = id(values_of(form, buffers))

    def forget(reference: Any) -> None:
        known = _known.get(key)
        if known is not None and any(reference is other for other in known.references):
            _known.pop(key, None)

    # Detached: the operand keeps the memory but not the tensors, whose end ends all of this.
    with torch.inference_mode(False), torch.no_grad():
        operand = SparseOperand(form, tuple(buffer.detach() for buffer in buffers), n, k)
    found = _Known([weakref.ref(buffer, forget) for buffer in buffers], state, operand, restless)
    _known[key] = found
    return found


def _sample(values: Tensor) -> int | None:
    if not (values.is_cpu and values.numel()):
        return None
    module = _core()
    if module is None:
        return None
    found: int = module.sample(values.data_ptr(), values.nbytes, _SAMPLES)
    return found
