"""An order of the inputs in which N:M keeps more magnitude.

N:M keeps the n largest of every m neighbours, so it loses where large weights stand together. Which inputs are
neighbours is free: a layer computes the same from its inputs in another order, if its weight's columns are in that
order too (Pool and Yu 2021, "Channel permutations for N:M sparsity").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tilewright.errors import ArgumentError, ShapeError
from tilewright.sparse.patterns import NofM, Pattern, as_matrices, parse_pattern
from tilewright.sparse.targets import LAYERS, find_targets

_WIDTH = 128
"""Columns among which a round looks for exchanges: its cost grows with the columns times this."""
_FRUITLESS = 4
"""Rounds without a gain after which the search ends, where each looks at a part of the exchanges."""
_LEAST_GAIN = 1e-6
"""Of an exchange, as a share of what is kept: less is within the rounding of fp32 sums."""


@dataclass(frozen=True, slots=True)
class Permutation:
    """An order of a weight's inputs, and the share of Σ|weight| that the pattern keeps without it and with it."""

    order: Tensor
    """int64, (inputs,): place j gets what was input ``order[j]``."""
    kept_before: float
    kept_after: float

    @property
    def inverse(self) -> Tensor:
        """The order that undoes it."""
        return self.order.argsort()

    def __str__(self) -> str:
        return f"order of {len(self.order)} inputs: keeps {self.kept_after:.2%}, without it {self.kept_before:.2%}"


def find_permutation(
    weight: Tensor, pattern: str | Pattern = "2:4", *, scores: Tensor | None = None, rounds: int = 60
) -> Permutation:
    """Looks for an order of the inputs in which an N:M keeps as much as possible; never less than as they are.

    Two inputs of different groups are exchanged wherever that keeps more. The gains of all exchanges among 128 inputs
    are computed at once: taking w_j into the place of i keeps, of each output, the n - 1 largest of the group's others
    and the larger of w_j and the next, and Σ max(a, b) = (Σ a + Σ b + Σ |a - b|) / 2 is a matter of distances. Each
    round takes the best ones that have no group in common. The same weight gives the same order on the same machine.
    The search ends where no exchange gains, and after `rounds` in any case; one costs outputs × inputs × 256
    operations at most.

    The weight is left as it is. `permute_inputs` brings it into the order. Then either its activations come in the
    same order, ``layer(x[..., permutation.order])`` (of a convolution ``x[:, permutation.order]``), or whatever
    computes them is told to write them so, `permute_outputs`, which costs nothing at run time.

    Args:
        weight: (O, I, ...) of outputs by inputs; a convolution's must have one group.
        pattern: an N:M.
        scores: what is to be kept, not negative, of the weight's shape; None for |weight|.
        rounds: at most so many.

    Raises:
        ArgumentError: another pattern, no rounds, scores that are negative or not finite. ShapeError: fewer than two
            dimensions, or scores of another shape. Else the errors of `prune` for weights.
    """
    find_targets(weight, "find_permutation")
    parsed = parse_pattern(pattern)
    if not isinstance(parsed, NofM):
        raise ArgumentError(f"find_permutation: pattern is {parsed}; expected an N:M such as '2:4'")
    parsed.check(weight.shape, "find_permutation: weight")
    if rounds < 1:
        raise ArgumentError(f"find_permutation: rounds is {rounds}; expected 1 or more")
    worth = weight.detach().abs() if scores is None else scores.detach()
    if worth.shape != weight.shape:
        raise ShapeError(
            f"find_permutation: scores has shape {tuple(worth.shape)}; expected the weight's, {tuple(weight.shape)}"
        )
    columns = as_matrices(worth).flatten(0, 1).t().float()
    if not bool((columns.isfinite() & (columns >= 0)).all()):
        raise ArgumentError("find_permutation: scores are negative or not finite; expected finite, 0 or more")
    identity = torch.arange(columns.shape[0], device=columns.device)
    order = _search(columns.contiguous(), parsed, rounds) if columns.numel() else identity
    before, after = _kept(columns, parsed), _kept(columns[order], parsed)
    if not after > before:
        order, after = identity, before
    total = float(columns.sum(dtype=torch.float64))
    return Permutation(order, before / total if total else 1.0, after / total if total else 1.0)


def permute_inputs(layer: nn.Module, permutation: Permutation | Tensor) -> None:
    """Brings a linear layer's or an ungrouped convolution's weight into the order, in place.

    From then on it expects its inputs in that order.

    Raises:
        ArgumentError: another module, a grouped convolution. ShapeError: an order of other than its inputs.
    """
    weight, (_, dim) = _permutable(layer, "permute_inputs")
    order = _checked_order(permutation, weight.shape[dim], "permute_inputs", "inputs")
    with torch.no_grad():
        weight.copy_(weight.index_select(dim, order.to(weight.device)))


def permute_outputs(modules: nn.Module | Sequence[nn.Module], permutation: Permutation | Tensor) -> None:
    """Has modules give their outputs in the order that the next layer expects, in place.

    Name all between the layers that compute the activations and the one that takes them: linear layers and
    convolutions (weight and bias are permuted), BatchNorm1d to 3d and LayerNorm over the channels alone (their
    parameters and statistics). What works on each element (activations, dropout, pooling) needs nothing. Whatever else
    reads these activations, such as a residual sum, must be brought into the order too.

    Raises:
        ArgumentError: another module, a grouped convolution. ShapeError: an order of other than its outputs. Either
            leaves all modules as they were.
    """
    named = [modules] if isinstance(modules, nn.Module) else list(modules)
    planned: list[tuple[Tensor, int, Tensor]] = []
    for module in named:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.LayerNorm):
            size = module.normalized_shape[-1] if isinstance(module, nn.LayerNorm) else module.num_features
            kept = (module.weight, module.bias, *(module._buffers.values()))
            parts = [(part, 0) for part in kept if part is not None and part.dim() == 1]
            if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1:
                raise ArgumentError(
                    "permute_outputs: LayerNorm normalizes several dimensions; expected the channels alone"
                )
        else:
            weight, (dim, _) = _permutable(module, "permute_outputs")
            size = weight.shape[dim]
            parts = [(weight, dim)]
            bias = module._parameters.get("bias")
            if bias is not None:
                parts.append((bias, 0))
        order = _checked_order(permutation, size, "permute_outputs", "outputs")
        planned += [(part, dim, order.to(part.device)) for part, dim in parts]
    with torch.no_grad():
        for part, dim, order in planned:
            part.copy_(part.index_select(dim, order))


def _permutable(layer: nn.Module, operation: str) -> tuple[Tensor, tuple[int, int]]:
    """The weight, and its dimensions of outputs and inputs."""
    transposed = getattr(type(layer), "transposed", None) is True
    if not (transposed or isinstance(layer, LAYERS)) or getattr(layer, "groups", 1) != 1:
        raise ArgumentError(
            f"{operation}: got a {type(layer).__name__}; expected a linear layer or a convolution with one group"
        )
    (target,) = find_targets(layer, operation, ["weight"])
    return target.weight, (1, 0) if target.transposed else (0, 1)


def _checked_order(permutation: Permutation | Tensor, size: int, operation: str, what: str) -> Tensor:
    order = permutation.order if isinstance(permutation, Permutation) else permutation
    expected = torch.arange(size)
    if order.shape != (size,) or not torch.equal(order.detach().cpu().long().sort().values, expected):
        raise ShapeError(
            f"{operation}: permutation is no order of {size} {what}, it has shape {tuple(order.shape)}; expected each "
            f"of 0 to {size - 1} once"
        )
    return order.long()


def _kept(columns: Tensor, pattern: NofM) -> float:
    """What the pattern keeps of (inputs, rows), in float64."""
    rows = columns.t()
    return float((rows * pattern.best(rows)).sum(dtype=torch.float64))


def _search(columns: Tensor, pattern: NofM, rounds: int) -> Tensor:
    """The order that the exchanges lead to. `columns` is (inputs, rows)."""
    n, m = pattern.n, pattern.m
    inputs = columns.shape[0]
    # What fills up the last group stays there: it is no input that could be exchanged.
    groups = -(-inputs // m)
    padded = nn.functional.pad(columns, (0, 0, 0, groups * m - inputs))
    order = torch.arange(groups * m, device=columns.device)
    width = max(2, _WIDTH // m)
    generator = torch.Generator().manual_seed(0)
    fruitless = 0
    for _ in range(rounds):
        gained = False
        shuffled = torch.randperm(groups, generator=generator) if groups > width else torch.arange(groups)
        for part in shuffled.split(width):
            stripes = part.to(order.device)
            places = (stripes[:, None] * m + torch.arange(m, device=order.device)).flatten()
            for first, second in _exchanges(padded[order[places]], order[places] >= inputs, n, m):
                a, b = int(places[first]), int(places[second])
                order[[a, b]] = order[[b, a]]
                gained = True
        fruitless = 0 if gained else fruitless + 1
        if fruitless and (groups <= width or fruitless >= _FRUITLESS):
            break
    return order[:inputs]


def _exchanges(columns: Tensor, fixed: Tensor, n: int, m: int) -> Iterator[tuple[int, int]]:
    """Pairs of places among (places, rows) whose exchange keeps more: the best first, no group in two of them.

    Those marked in `fixed` take no part.
    """
    stripes = columns.shape[0] // m
    if stripes < 2:
        return
    groups = columns.unflatten(0, (stripes, m))
    ranked = groups.sort(dim=1, descending=True).values
    most, last, next_best = ranked[:, :n].sum(1, keepdim=True), ranked[:, n - 1 : n], ranked[:, n : n + 1]
    # Of each place, the group without it: what is kept of that anyway, and what a newcomer has to beat.
    among = groups >= last
    sure = (most - torch.where(among, groups, last)).sum(2).flatten()
    rival = torch.where(among, next_best, last).flatten(0, 1)
    larger = torch.cdist(rival, columns, p=1.0)
    larger += rival.sum(1)[:, None]
    larger += columns.sum(1)
    larger *= 0.5
    gain = larger + larger.t() + sure[:, None] + sure
    gain.masked_fill_(fixed | fixed[:, None], -torch.inf)
    now = most.sum((1, 2))
    gain = gain.unflatten(0, (stripes, m)).unflatten(2, (stripes, m)).transpose(1, 2).flatten(2)
    best, which = gain.max(2)
    best -= now[:, None] + now
    least = _LEAST_GAIN * float(now.sum())
    best.masked_fill_(torch.ones_like(best, dtype=torch.bool).tril(), -1.0)
    order = best.flatten().sort(descending=True, stable=True)
    count = int((order.values > max(least, 0.0)).sum())
    taken: set[int] = set()
    chosen = which.flatten()[order.indices[:count]].tolist()
    for pair, place in zip(order.indices[:count].tolist(), chosen, strict=True):
        a, b = divmod(pair, stripes)
        if a not in taken and b not in taken:
            taken |= {a, b}
            i, j = divmod(place, m)
            yield a * m + i, b * m + j
