"""Removing weights: the lowest scores of a pattern's units go, exactly as many as asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tilewright.errors import ArgumentError
from tilewright.sparse.patterns import NofM, Pattern, Unstructured, parse_pattern
from tilewright.sparse.pruning import Pruning
from tilewright.sparse.schedules import Schedule
from tilewright.sparse.scores import Score, Scorer, scorer
from tilewright.sparse.selection import keep, keep_overall, keep_per_row, removal_count
from tilewright.sparse.targets import Target, find_targets

Scope = Literal["layer", "global", "row"]


def prune(
    module_or_weight: nn.Module | Tensor,
    pattern: str | Pattern,
    amount: float | None = None,
    score: Score = "magnitude",
    scope: Scope = "layer",
    schedule: Schedule | None = None,
    *,
    batches: Iterable[Any] | None = None,
    weights: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> Pruning:
    """Sets weights to zero, in place: of a pattern's units those with the lowest scores.

    Linear layers' and convolutions' weights are pruned where they are, biases and all else stay. A unit's score is the
    mean of its weights'. Exactly as many units go as `amount` says, of equal scores the later ones; zeros that are
    there have the lowest magnitude and count.

    Args:
        module_or_weight: a model or layer, or a tensor (O, I, ...) of outputs by inputs.
        pattern: ``"unstructured"``; ``"N:M"``, at most N of M consecutive inputs are left, as in ``"2:4"``;
            ``"block(r, c)"``, r outputs by c inputs; ``"channel"``, whole outputs, or ``"channel(1)"``, inputs.
            Of a convolution, N:M and blocks lie across its input channels, at each kernel position by itself.
        amount: how many *units* (weights, blocks, channels) are removed: a float is a share of them, an int their
            number, as in `torch.nn.utils.prune`; of all that there are, not of those left. For N:M it may be left
            out: the pattern removes M - N of every M by itself; more can be asked for, less is none.
        score: ``"magnitude"``, |w|; ``"wanda"``, |w|·‖x‖₂ (see `wanda_scores`), needs `batches`; a function of the
            weight that returns a tensor like it, of ``w.grad`` for instance; or such tensors by weight's name.
        scope: ``"layer"`` removes the amount from each weight, ``"global"`` from all together, where the scores are
            lowest (a layer may lose everything), ``"row"`` from each output of each (unstructured alone; what Wanda
            takes for language models).
        schedule: a share of the amount after each optimizer step, `Cubic` for instance. ``pruning.attach(optimizer)``
            follows it; what once is removed stays so. None: all at once.
        batches: what the model is run on for ``"wanda"``.
        weights, skip: names of weights (``"head.weight"``) or patterns of names (``"encoder.*"``) to be pruned, and
            to be left alone. Names may be any parameter's.

    Returns:
        The masks, what keeps them in force in training (`Pruning.attach`), and a report.

    Raises:
        ArgumentError: a pattern, amount, score, scope or name that is none, or fits nothing; scores that are not
            finite. ShapeError: a weight that the pattern does not apply to, or scores of another shape. DtypeError,
            LayoutError, DeviceError: a weight that is not floating, not dense, or without data.

    Sources: Han et al. 2015, arXiv:1506.02626 (magnitude); Sun et al. 2023, arXiv:2306.11695 (Wanda); Mishra et al.
    2021, arXiv:2104.08378 (2:4).
    """
    targets = find_targets(module_or_weight, "prune", weights, skip)
    plan = _Plan(parse_pattern(pattern), amount, scope, targets)
    plan.check()
    plan.scorer = scorer(score, module_or_weight, targets, batches)
    masks = {target.name: torch.ones_like(target.weight, dtype=torch.bool) for target in targets}
    return Pruning(targets, masks, str(plan.pattern), schedule, plan.masks)._begin()


def mask_for(
    weight: Tensor, pattern: str | Pattern, amount: float | None = None, scores: Tensor | None = None
) -> Tensor:
    """The mask that `prune` would apply to a weight, which is left as it is.

    Args:
        weight, pattern, amount: as in `prune`.
        scores: of the weight's shape; None for the magnitude.

    Returns:
        bool, of the weight's shape; true is kept. The errors are those of `prune`.
    """
    targets = find_targets(weight, "mask_for")
    plan = _Plan(parse_pattern(pattern), amount, "layer", targets)
    plan.check()
    plan.scorer = scorer("magnitude" if scores is None else {"weight": scores}, weight, targets, None)
    return plan.masks(1.0, {})["weight"]


@dataclass(slots=True)
class _Plan:
    """How masks are chosen: everything that `prune` was asked for but the schedule."""

    pattern: Pattern
    amount: float | None
    scope: Scope
    targets: Sequence[Target]
    scorer: Scorer | None = None

    def check(self) -> None:
        """Raises where the arguments do not fit together, before anything is computed."""
        if self.scope not in ("layer", "global", "row"):
            raise ArgumentError(f"prune: scope is {self.scope!r}; expected 'layer', 'global' or 'row'")
        if self.scope == "row" and not isinstance(self.pattern, Unstructured):
            raise ArgumentError(
                f"prune: scope='row' is for the pattern 'unstructured'; {self.pattern} is chosen per 'layer' or "
                "'global'"
            )
        shapes = {target.name: self._shape(target) for target in self.targets}
        for name, shape in shapes.items():
            self.pattern.check(shape, f"prune: {name}")
            if self.scope == "row" and len(shape) < 2:
                raise ArgumentError(f"prune: {name} has no rows for scope='row'; pass scope='layer'")
            if self.scope != "global":
                self._count([shape])
        if self.scope == "global":
            self._count(list(shapes.values()))

    def masks(self, share: float, previous: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks at a share of the final amount; what `previous` ones removed stays removed."""
        assert self.scorer is not None
        found: list[Tensor] = []
        units: list[Tensor] = []
        early: list[Tensor | None] = []
        shapes = [self._shape(target) for target in self.targets]
        for target, shape in zip(self.targets, shapes, strict=True):
            scores = self.scorer(target)
            if target.name in previous:
                gone = ~previous[target.name].to(scores.device)
                scores = scores.masked_fill(gone, -torch.inf)
            scores = target.oriented(scores)
            if self.scope == "row":
                rows = scores.reshape(shape[0], shape[1:].numel())
                found.append(keep_per_row(rows, self._scaled(self._count([shape]), share)).reshape(shape))
                continue
            single, first = self.pattern.unit_scores(scores), self.pattern.first(scores)
            if self.scope == "layer":
                kept = keep(single, first, self._scaled(self._count([shape]), share))
                found.append(self.pattern.expand(kept, shape))
                continue
            units.append(single)
            early.append(first)
        if self.scope == "global":
            every = keep_overall(units, early, self._scaled(self._count(shapes), share))
            found = [self.pattern.expand(kept, shape) for kept, shape in zip(every, shapes, strict=True)]
        return {
            target.name: target.oriented(mask).contiguous()
            for target, mask in zip(self.targets, found, strict=True)
        }

    def _shape(self, target: Target) -> torch.Size:
        return target.oriented(target.weight).shape

    @staticmethod
    def _scaled(count: int, share: float) -> int:
        return round(count * share)

    def _count(self, shapes: Sequence[torch.Size]) -> int:
        """How many units go in the end from weights of these shapes taken together; of each row in that scope."""
        if self.scope == "row":
            if self.amount is None:
                raise _no_amount(self.pattern)
            return removal_count(self.amount, shapes[0][1:].numel(), "weights in a row")
        units = sum(self.pattern.units(shape) for shape in shapes)
        if not isinstance(self.pattern, NofM):
            if self.amount is None:
                raise _no_amount(self.pattern)
            return removal_count(self.amount, units, f"units of {self.pattern}")
        own = sum(self.pattern.own_amount(shape) for shape in shapes)
        if self.amount is None or self.amount == 1.0 - self.pattern.n / self.pattern.m:
            return own
        count = removal_count(self.amount, units, "weights")
        if count < own:
            raise ArgumentError(
                f"prune: amount is {self.amount!r}, which removes {count} of {units} weights; expected {own} or more "
                f"for {self.pattern}; leave amount out, or thin out gradually with schedule=Cubic(...)"
            )
        return count


def _no_amount(pattern: Pattern) -> ArgumentError:
    return ArgumentError(
        f"prune: amount is missing; expected a share from 0 to 1 or a number of units to be removed for {pattern}"
    )
