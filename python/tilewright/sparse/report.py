"""What pruning left of each layer: a table, a dictionary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from tilewright.sparse.patterns import Channel, NofM, Unstructured, as_matrices
from tilewright.sparse.targets import find_targets
from tilewright.tables import rich_table, text_table

_COLUMNS = ("weight", "shape", "pattern", "zeros", "sparsity", "kept magnitude")
_RIGHT = ("zeros", "sparsity", "kept magnitude")


@dataclass(slots=True)
class LayerSparsity:
    """A weight, and how much of it is left."""

    weight: str
    shape: tuple[int, ...]
    pattern: str
    numel: int
    zeros: int
    kept_magnitude: float | None = None
    """The share of Σ|weight| that the mask kept, over all choices of masks; None where nobody saw it."""

    @property
    def sparsity(self) -> float:
        """The share of zeros; 0 of a weight without elements."""
        return self.zeros / self.numel if self.numel else 0.0

    def cells(self) -> tuple[str, ...]:
        kept = "" if self.kept_magnitude is None else f"{self.kept_magnitude:.2%}"
        shape = "×".join(map(str, self.shape))
        return self.weight, shape, self.pattern, str(self.zeros), f"{self.sparsity:.2%}", kept


@dataclass(slots=True)
class SparsityReport:
    """Each weight's sparsity. ``print`` it for a table, with rich installed for one in colours."""

    layers: list[LayerSparsity] = field(default_factory=list)

    @property
    def sparsity(self) -> float:
        """The share of zeros in all the weights together."""
        total = sum(layer.numel for layer in self.layers)
        return sum(layer.zeros for layer in self.layers) / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        layers = [{**asdict(layer), "sparsity": layer.sparsity} for layer in self.layers]
        return {"layers": layers, "sparsity": self.sparsity}

    def summary(self) -> str:
        """The model as a whole, in a sentence."""
        total = sum(layer.numel for layer in self.layers)
        zeros = sum(layer.zeros for layer in self.layers)
        return f"{zeros} of {total} weights are zero, {self.sparsity:.2%}"

    def __str__(self) -> str:
        return f"{text_table(_COLUMNS, self._rows(), _RIGHT)}\n{self.summary()}"

    def __rich__(self) -> Any:
        dense = {index for index, layer in enumerate(self.layers) if layer.zeros == 0}
        return rich_table(_COLUMNS, self._rows(), _RIGHT, dim=dense, below=[self.summary()])

    def _rows(self) -> list[tuple[str, ...]]:
        return [layer.cells() for layer in self.layers]


def report(
    model: nn.Module, *, weights: Iterable[str] | None = None, skip: Iterable[str] = ()
) -> SparsityReport:
    """The zeros of any model's linear layers and convolutions, and the pattern that they follow.

    Named are ``channel`` (whatever is zero is whole outputs), ``2:4`` and 1:4 (as the zeros are, no group has more
    than 2 or 1 others), else ``unstructured``, which blocks are called too, since zeros do not tell their size. It
    costs one pass over the weights.

    Args:
        weights, skip: which weights, as in `prune`.

    Raises:
        The errors of `prune` for weights that are not plain.
    """
    layers = []
    for target in find_targets(model, "report", weights, skip):
        weight = target.oriented(target.weight.detach())
        zero = weight == 0
        zeros = int(zero.sum())
        shape = tuple(target.weight.shape)
        layers.append(LayerSparsity(target.name, shape, _pattern(zero, zeros), weight.numel(), zeros))
    return SparsityReport(layers)


def _pattern(zero: Tensor, zeros: int) -> str:
    if zeros == 0:
        return "dense"
    if zero.dim() >= 2:
        rows = zero.flatten(1).all(1)
        if int(rows.sum()) * zero[0].numel() == zeros:
            return str(Channel())
        for pattern in (NofM(1, 4), NofM(2, 4)):
            matrices = as_matrices((~zero).float())
            # The best n of each group hold all that is not zero, if the group has no more.
            if not bool(((matrices > 0) & ~pattern.best(matrices)).any()):
                return str(pattern)
    return str(Unstructured())
