"""When a gradual pruning removes how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tilewright.errors import ArgumentError

Schedule = Callable[[int], float]
"""The share of the final amount that is removed after a number of optimizer steps: 1 when all of it is.

Any function will do. What it returns may stay the same from step to step, which costs nothing; masks are chosen anew
where it grows, and where it falls nothing comes back.
"""


@dataclass(frozen=True, slots=True)
class Cubic:
    """Fast at first, while there is much to spare, then slower (Zhu and Gupta 2017, arXiv:1710.01878)::

        share(t) = 1 + (initial - 1)·(1 - (t - begin)/(end - begin))³        from step begin to step end

    evaluated every `every` steps, and at `end` exactly 1. Before `begin` nothing is removed.

    Args:
        begin, end: optimizer steps, of which the first is 1; ``begin = 0`` removes `initial` at once.
        every: steps between two choices of masks, in which the network recovers. Zhu and Gupta take 100 to 1000 for
            long trainings.
        initial: the share of the final amount that is removed at `begin`.

    Raises:
        ArgumentError: not ``0 <= begin < end``, ``every >= 1``, ``0 <= initial <= 1``.
    """

    begin: int
    end: int
    every: int = 1
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end:
            raise ArgumentError(
                f"Cubic: begin is {self.begin} and end {self.end}; expected optimizer steps with 0 <= begin < end"
            )
        if self.every < 1:
            raise ArgumentError(f"Cubic: every is {self.every}; expected a number of steps, 1 or more")
        if not 0.0 <= self.initial <= 1.0:
            raise ArgumentError(
                f"Cubic: initial is {self.initial}; expected a share of the final amount from 0 to 1"
            )

    def __call__(self, step: int) -> float:
        """The share after `step` optimizer steps."""
        if step >= self.end:
            return 1.0
        if step < self.begin:
            return 0.0
        passed = (step - self.begin) // self.every * self.every
        left = 1.0 - passed / (self.end - self.begin)
        return 1.0 + (self.initial - 1.0) * left**3
