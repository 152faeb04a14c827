"""BatchNorm folded into the layer before it: the layer's weight and bias, scaled, kept beside the packed weight.

With running statistics a BatchNorm is ``y = γ·(z - mean)/√(var + eps) + β`` per channel, and z = W·x + b is linear, so

    y = (s·W)·x + (s·(b - mean) + β)        s = γ/√(var + eps)

computed in float64 and rounded once. The layer's and the BatchNorm's own parameters stay what they are: what is folded
is a cache of theirs. It belongs to the packed weight (`packing.Snapshot`) and goes with it; each call compares what the
vectors b, γ, β, mean and var hold with what they held when it was made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.locks import RenewedLock
from tilewright.ops.packed import FrozenWeight
from tilewright.packing import Snapshot, digest, plain

_lock = RenewedLock()
_VECTORS = 5


class Folded:
    """A layer's weight and bias with its BatchNorm's in them. Keeps weights as a `Snapshot` does, by dtype."""

    __slots__ = ("addresses", "bias", "bias_key", "digests", "eps", "frozen", "vectors")

    def __init__(self, vectors: tuple[Tensor | None, ...], eps: float) -> None:
        self.vectors, self.eps = vectors, eps
        self.addresses = tuple(0 if vector is None else vector.data_ptr() for vector in vectors)
        self.digests = tuple(None if vector is None else digest(vector) for vector in vectors)
        self.frozen: dict[torch.dtype, FrozenWeight] = {}
        """Empty where folding is not possible."""
        self.bias: Tensor | None = None
        self.bias_key: Any = None

    def is_of(self, vectors: tuple[Any, ...], eps: float) -> bool:
        """Whether these are the vectors, and hold what they held."""
        if eps != self.eps:
            return False
        for index in range(_VECTORS):
            vector = vectors[index]
            if vector is not self.vectors[index]:
                return False
            if vector is not None and (
                vector.data_ptr() != self.addresses[index] or digest(vector) != self.digests[index]
            ):
                return False
        return True

    def of(self, dtype: torch.dtype) -> FrozenWeight:
        """The weight in this dtype, as autocast wants it."""
        found = self.frozen.get(dtype)
        if found is None:
            with _lock.current, torch.inference_mode(False), torch.no_grad():
                own = next(iter(self.frozen.values())).weight
                found = self.frozen.setdefault(dtype, FrozenWeight(own.to(dtype)))
        return found

    def bytes(self) -> int:
        """Memory held beside the layer's own weight."""
        kept = list(self.frozen.values())
        return sum(frozen.weight.nbytes + frozen.operand.bytes() for frozen in kept)


def folded(layer: Any, norm: Any, snapshot: Snapshot) -> Folded | None:
    """The weight of `snapshot`, which is the layer's, with `norm` folded in; None if that is not possible."""
    held, kept = norm.__dict__["_parameters"], norm.__dict__["_buffers"]
    vectors = (
        # Past the dictionary's own `get`, which takes down that the weight may have been given out.
        dict.get(layer.__dict__["_parameters"], "bias"),
        held.get("weight"),
        held.get("bias"),
        kept.get("running_mean"),
        kept.get("running_var"),
    )
    found: Folded | None = snapshot.folded
    if found is None or not found.is_of(vectors, norm.eps):
        with _lock.current:
            found = snapshot.folded
            if found is None or not found.is_of(vectors, norm.eps):
                found = snapshot.folded = _fold(snapshot.weight, vectors, norm.eps)
    return found if found is not None and found.frozen else None


def _fold(weight: Tensor, vectors: tuple[Any, ...], eps: float) -> Folded | None:
    """With `frozen` empty if the layer is better left as it is; None if not even its vectors can be compared."""
    channels = weight.shape[0]
    if vectors[3] is None or vectors[4] is None:
        return None
    for vector in vectors:
        if vector is not None and not (
            plain(vector)
            and vector.shape == (channels,)
            and vector.is_contiguous()
            and vector.dtype in KERNEL_DTYPES
        ):
            return None
    found = Folded(vectors, eps)
    if found.digests[3] is None:  # the extension is missing
        return None
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        bias, gamma, beta, mean, variance = (None if x is None else x.detach().double() for x in vectors)
        assert mean is not None
        assert variance is not None
        scale = (variance + eps).rsqrt()
        scale = scale if gamma is None else gamma * scale
        shift = scale * (-mean if bias is None else bias - mean)
        shift = (shift if beta is None else shift + beta).float()
        exact = weight.detach().double() * scale.view(-1, *(1,) * (weight.dim() - 1))
        scaled = torch.empty_like(weight, requires_grad=False).copy_(exact)
        if _rounded_well(scaled, exact) and bool(shift.isfinite().all()):
            found.frozen[weight.dtype] = FrozenWeight(scaled)
            found.bias, found.bias_key = shift, (shift.shape, shift.stride(), shift.dtype)
    return found


def _rounded_well(scaled: Tensor, exact: Tensor) -> bool:
    """Whether every channel survived being rounded: fp16 has little room above and below the usual weights."""
    rows = exact.flatten(1)
    error = (scaled.double().flatten(1) - rows).abs().amax(1)
    return bool((error <= torch.finfo(scaled.dtype).eps * rows.abs().amax(1)).all())
