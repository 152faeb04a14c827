"""Which units go: exactly as many as asked for, the lowest scores first, ties in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentError


def removal_count(amount: Any, units: int, what: str) -> int:
    """How many of `units` are to be removed: as `torch.nn.utils.prune` reads amounts, an int is a count, a float a
    share, rounded to the nearest count (of two, the even one).

    Raises:
        ArgumentError: `amount` is neither, is outside [0, 1] as a share, or is negative or more than there is.
    """
    problem = f"prune: amount is {amount!r}; expected"
    if isinstance(amount, bool) or not isinstance(amount, Real):
        raise ArgumentError(
            f"{problem} a float from 0 to 1 (the share removed) or an int (the number removed)"
        )
    if isinstance(amount, Integral):
        count = int(amount)
        if not 0 <= count <= units:
            raise ArgumentError(
                f"{problem} from 0 to {units} as an int, the number of {what}; pass a float for a share"
            )
        return count
    share = float(amount)
    if not 0.0 <= share <= 1.0:
        raise ArgumentError(f"{problem} from 0 to 1 as a float, the share removed")
    return round(share * units)


def keep(scores: Tensor, first: Tensor | None, count: int) -> Tensor:
    """Which of the units are left when `count` of them are removed.

    Those marked in `first` go before all others, lower scores before higher ones, and of equal scores the later units
    before the earlier ones.

    Args:
        scores: (units,), not NaN.
        first: (units,) of bool, or None for none.
        count: from 0 to the number of units.

    Returns:
        (units,) of bool; exactly ``units - count`` are true.
    """
    if first is None:
        return ~_lowest(scores, count)
    early = int(first.sum())
    within = first if count <= early else ~first
    removed = torch.zeros_like(first) if count <= early else first.clone()
    removed[within] = _lowest(scores[within], count if count <= early else count - early)
    return ~removed


def keep_overall(scores: Sequence[Tensor], first: Sequence[Tensor | None], count: int) -> list[Tensor]:
    """`keep` over several weights' units at once, in their order; the result is split as they are."""
    if not scores:
        return []
    sizes = [len(part) for part in scores]
    devices = {part.device for part in scores}
    home = scores[0].device if len(devices) == 1 else torch.device("cpu")
    dtype = torch.float64 if any(part.dtype == torch.float64 for part in scores) else scores[0].dtype
    every = torch.cat([part.to(home, dtype) for part in scores])
    early = None
    if any(part is not None for part in first):
        early = torch.cat(
            [
                torch.zeros(size, dtype=torch.bool, device=home) if part is None else part.to(home)
                for part, size in zip(first, sizes, strict=True)
            ]
        )
    parts = keep(every, early, count).split(sizes)
    return [part.to(own.device) for part, own in zip(parts, scores, strict=True)]


def keep_per_row(scores: Tensor, count: int) -> Tensor:
    """`keep` in every row of (rows, columns), `count` removed from each."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    kept = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    kept.scatter_(1, order[:, : scores.shape[1] - count], True)
    return kept


def _lowest(scores: Tensor, count: int) -> Tensor:
    """Marks exactly `count`: the lowest, of equal ones the later."""
    if count in (0, len(scores)):
        return torch.full(scores.shape, count != 0, dtype=torch.bool, device=scores.device)
    threshold = scores.kthvalue(count).values
    removed = scores < threshold
    ties = (scores == threshold).nonzero()[:, 0]
    missing = count - int(removed.sum())
    removed[ties[len(ties) - missing :]] = True
    return removed
