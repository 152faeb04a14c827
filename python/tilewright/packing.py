"""When a module may use a packed weight: while it is certain that the weight still holds what was packed.

torch counts most writes to a tensor (``tensor._version``), but not all: ``weight.data.mul_(2)``, a NumPy view, a
kernel of somebody else's. To write, one needs a reference to the weight or to its memory. So a module packs its weight
by itself only while nobody else holds one, which Python's and torch's reference counts tell, and notes whenever the
weight is taken from it (``module.weight``, ``parameters()``, ``state_dict()``: all of them read the dictionary
`WatchedParameters`). From then on the packed form rests until every reference is back and a digest of the whole weight
shows that nothing has changed, or until the weight is packed anew. A call that finds nothing noted compares four small
things.

A weight that others hold too (an optimizer, a tied module, a NumPy array) is packed only on its user's word that it
will not be written behind torch's back, `Packing.promised`. Counted writes are noticed then too, and uncounted ones if
they change one of `_SAMPLES` words spread over the weight.
"""

from __future__ import annotations

import time
from sys import getrefcount
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from tilewright.holders import UNHELD, WatchedParameters, alone, weight_of
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.locks import RenewedLock
from tilewright.ops.checks import dtype_text
from tilewright.ops.packed import FrozenWeight
from tilewright.tuner.device import core

_SAMPLES = 64
_RESTLESS = 2
"""So many packed weights in a row that served one call each, and the next is packed only once seen unchanged."""

_MOST_HELD = 16
"""Calls after which the packed form of a weight that others hold by now is let go."""

_PATIENCE = 5
_HELD = object()
_get: Any = dict.get
_lock = RenewedLock()


class Snapshot:
    """A weight as it was when it was packed, and its packed forms, one `FrozenWeight` for each dtype."""

    __slots__ = (
        "addend",
        "address",
        "digest",
        "folded",
        "frozen",
        "geometry",
        "reused",
        "sample",
        "token",
        "transposed",
        "version",
        "weight",
    )

    def __init__(self, weight: Parameter, transposed: bool = False) -> None:
        self.weight = weight
        self.transposed = transposed
        self.geometry = _geometry(weight)
        self.address = weight.data_ptr()
        self.version = weight._version
        self.digest: int | None = None
        self.sample: int | None = None
        self.token: object = _HELD
        """`WatchedParameters.lent` when last the module alone held the weight; `_HELD` if others do."""
        self.reused = False
        with torch.inference_mode(False), torch.no_grad():
            # Detached, so that it counts as no view of the parameter: `torch.utils.swap_tensors` refuses those.
            self.frozen = {weight.dtype: FrozenWeight(self._as_linear(weight.detach()))}
        self.addend: tuple[Tensor | None, int, Any, Tensor | None] = (None, 0, None, None)
        self.folded: Any = None
        """What others made of the weight while it is this one; ``bytes()`` tells how much memory that takes."""

    def is_of(self, module: Any) -> bool:
        """Whether the module's weight is still this one, in the same memory."""
        return (
            weight_of(module) is self.weight
            and self.weight.data_ptr() == self.address
            and _geometry(self.weight) == self.geometry
        )

    def unchanged(self) -> bool:
        """Whether all of the weight is as it was. Reads all of it."""
        return self.digest is not None and digest(self.weight) == self.digest

    def fingerprint(self) -> None:
        """Takes down what the weight holds."""
        self.digest, self.sample = digest(self.weight), _sample(self.weight)

    def sampled_alike(self) -> bool:
        """Whether some words spread over the weight are what they were."""
        return (
            self.sample is not None
            and _geometry(self.weight) == self.geometry
            and _sample(self.weight) == self.sample
        )

    def of(self, dtype: torch.dtype) -> FrozenWeight:
        """The weight in this dtype, as autocast wants it."""
        found = self.frozen.get(dtype)
        if found is None:
            with _lock.current, torch.inference_mode(False), torch.no_grad():
                cast = self._as_linear(self.weight.detach().to(dtype))
                found = self.frozen.setdefault(dtype, FrozenWeight(cast))
        return found

    def _as_linear(self, weight: Tensor) -> Tensor:
        """The weight as `FrozenWeight` takes it; transposed, a tensor of its own, as a view would keep `weight` too."""
        if not self.transposed:
            return weight
        empty = torch.empty(0, dtype=weight.dtype)
        shape, strides = reversed(weight.shape), reversed(weight.stride())
        return empty.set_(weight.untyped_storage(), weight.storage_offset(), tuple(shape), tuple(strides))

    @property
    def own(self) -> FrozenWeight:
        """The weight in its own dtype, where it lies."""
        return self.frozen[self.geometry[2]]

    def bytes(self) -> int:
        """Memory held beside the weight itself."""
        kept = list(self.frozen.items())
        cast = sum(frozen.weight.nbytes for dtype, frozen in kept if dtype != self.weight.dtype)
        folded: int = 0 if self.folded is None else self.folded.bytes()
        return cast + sum(frozen.operand.bytes() for _, frozen in kept) + folded

    def bias_key(self, bias: Tensor | None) -> Any:
        """The bias's (shape, strides, dtype), looked up again only when its identity or its memory is another.

        Raises:
            TypeError: the bias is no plain CPU tensor.
        """
        known, address, key, _ = self.addend
        if bias is known and (bias is None or bias.data_ptr() == address):
            return key
        if bias is None:
            self.addend = None, 0, None, None
            return None
        if not plain(bias):
            raise TypeError
        key = (bias.shape, bias.stride(), bias.dtype)
        # A view keeps the memory, so that no other bias comes to lie at this address.
        self.addend = bias, bias.data_ptr(), key, bias.detach()
        return key


class Packing:
    """What a module knows of its packed weight. The module's ``__dict__["_parameters"]`` is a `WatchedParameters`."""

    __slots__ = ("candidate", "held", "promised", "reason", "restless", "snapshot")

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.promised = False
        self.reason = "it was not called for inference yet"
        self.restless = 0
        self.held = 0
        self.candidate: tuple[Any, ...] | None = None

    def drop(self, reason: str) -> None:
        """Lets the packed weight go."""
        with _lock.current:
            self._forget()
            self.reason = reason

    def current(self, module: Any) -> Snapshot | None:
        """The packed weight, if it is certain to be the module's weight as it is now. The hot path."""
        snapshot = self.snapshot
        # No local variable holds the weight or the dictionary: another thread's `settle` would count it.
        if (
            snapshot is not None
            and _get(module.__dict__["_parameters"], "weight") is snapshot.weight
            and snapshot.weight._version == snapshot.version
            and snapshot.weight.data_ptr() == snapshot.address
            and (
                (
                    getattr(module.__dict__["_parameters"], "lent", None) is snapshot.token
                    and getrefcount(snapshot.weight) == UNHELD
                )
                or (self.promised and snapshot.sampled_alike())
            )
        ):
            snapshot.reused = True
            return snapshot
        snapshot = None  # nor a snapshot that `settle` is to let go of
        return self.settle(module)

    def settle(self, module: Any) -> Snapshot | None:
        """Finds out whether the weight may be packed, and whether what was packed of it is still right."""
        if self.held and not self.promised and not self._let_go(module):
            return None
        with _lock.current:
            reason = _obstacle(module)
            if reason is not None:
                self.snapshot, self.reason, self.held = None, reason, 0
                return None
            if self.snapshot is not None and not self.snapshot.is_of(module):
                self._forget()
            token = module.__dict__["_parameters"].lent
            held = not self._alone(module)
            if held and not self.promised:
                return None
            self.held = 0
            if self.snapshot is not None and not self.snapshot.unchanged():
                self._forget()
            weight = weight_of(module)
            if self.snapshot is None:
                if self.restless >= _RESTLESS and not self._seen_before(weight, token):
                    return None
                self.snapshot = Snapshot(weight, module.transposed)
                self.snapshot.fingerprint()
            self.snapshot.version, self.snapshot.token = weight._version, _HELD if held else token
            return self.snapshot

    def _forget(self) -> None:
        """Lets go of what was packed of a weight that has changed."""
        if self.snapshot is not None:
            self.restless = 0 if self.snapshot.reused else self.restless + 1
            self.snapshot = None

    def _seen_before(self, weight: Tensor, token: object) -> bool:
        """Whether the last call saw the very same; by uncounted writes too, as those replace the token."""
        seen = (token, id(weight), weight._version, weight.data_ptr())
        if self.candidate == seen:
            return True
        self.candidate, self.reason = seen, "the weight changed with every call so far"
        return False

    def _let_go(self, module: Any) -> bool:
        """Whether those that held the weight may have let go of it: a look before `settle` takes the lock."""
        return (self.snapshot is not None and not self.snapshot.is_of(module)) or self._alone(module)

    def _alone(self, module: Any) -> bool:
        """Whether the module alone refers to its weight. Calls in other threads do so for moments, too."""
        for attempt in range(1 if self.held else _PATIENCE):
            if attempt:
                time.sleep(1e-4 * attempt)
            if alone(module, None if self.snapshot is None else self.snapshot.own):
                return True
        self.held += 1
        if self.snapshot is not None:
            self.snapshot.token = _HELD  # once they have let go, all of the weight is compared
        self.reason = "others hold the weight or its memory too (an optimizer, a tied module, an array)"
        if self.held > _MOST_HELD and not self.promised:
            self.snapshot = None
        return False


def plain(tensor: Tensor) -> bool:
    """Whether kernels may read the tensor where it lies: no subclass, on the CPU, strided, not lazily negated."""
    return (
        type(tensor) in (Tensor, Parameter)
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_neg()
    )


def _obstacle(module: Any) -> str | None:
    """Why a module's weight is not packed, whoever holds it; None if nothing stands against it."""
    if type(module.__dict__["_parameters"]) is not WatchedParameters:
        return "the module's dictionary of parameters was replaced by another"
    weight = weight_of(module)
    if type(weight) is not Parameter:
        return "the weight is no plain parameter (parametrized, swapped by functional_call, a subclass)"
    if not plain(weight) or weight.dim() != module.weight_dims:
        return f"the weight is no plain tensor of {module.weight_dims} dimensions on the CPU"
    if weight.dtype not in KERNEL_DTYPES:
        return f"the weight is {dtype_text(weight.dtype)}, which no kernel of tilewright's computes"
    if weight.numel() == 0:
        return "the weight is empty"
    if weight.is_inference():
        return "the weight was made in inference mode, where torch counts no writes"
    if weight.is_shared():
        return "the weight lies in shared memory, where other processes may write to it"
    if not _dense(weight):
        return "the weight's memory has gaps"
    return None


def _dense(weight: Tensor) -> bool:
    """Whether the elements lie side by side, in whatever order."""
    expected = 1
    for step, size in sorted(zip(weight.stride(), weight.shape, strict=True)):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True


def _geometry(weight: Tensor) -> tuple[Any, ...]:
    return weight.shape, weight.stride(), weight.dtype


def digest(weight: Tensor) -> int | None:
    """Tells what a dense CPU tensor holds from what it held before; None without the extension."""
    module = core()
    if module is None:
        return None
    found: int = module.digest(weight.data_ptr(), weight.nbytes, torch.get_num_threads())
    return found


def _sample(weight: Tensor) -> int | None:
    module = core()
    if module is None:
        return None
    found: int = module.sample(weight.data_ptr(), weight.nbytes, _SAMPLES)
    return found
