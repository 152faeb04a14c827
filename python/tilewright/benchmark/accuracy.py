"""Compares a contender's result with the result in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tilewright.kernels.bound import worst_ratio


@dataclass(frozen=True, slots=True)
class Judge:
    """Knows part of the result in float64, and how far each element may be from it.

    Right is what is within the bound of ``kernels.<operation>.bound``, or errs at most `admitted` times as much as
    that: twice what torch's own operators do, one after the other.
    """

    part: Callable[[Tensor], Tensor]
    """What of a result is looked at: the oracle is slow."""

    exact: Tensor
    bound: Tensor
    admitted: float

    @classmethod
    def of(
        cls, part: Callable[[Tensor], Tensor], exact: Tensor, bound: Tensor, torch_result: Tensor
    ) -> Judge:
        """`torch_result` is what torch's operators make of the same part."""
        return cls(part, exact, bound, max(1.0, 2 * worst_ratio(torch_result, exact, bound)))

    @classmethod
    def of_model(cls, exact: Tensor, torch_result: Tensor, precision: str = "ieee") -> Judge:
        """Of a whole model: a layer's rounding errors are the next one's inputs, and no bound per element holds.

        The largest error may be twice that of eager torch, or 16 roundings of the largest output in fp32; with the
        precision tf32 one of operands that are cut to 10 bits, as in ``kernels/bound.py``.
        """
        theirs = float((torch_result.double() - exact).abs().max())
        unit = 2.0**-9 if precision == "tf32" else 16 * 2.0**-24
        bound = max(2 * theirs, unit * float(exact.abs().max()))
        return cls(lambda y: y, exact, torch.full_like(exact, bound), 1.0)

    def error(self, y: Tensor) -> tuple[float, bool]:
        """The largest absolute error on the part that is looked at, and whether every element is right."""
        got = self.part(y.detach())
        error = float((got.double() - self.exact).abs().max())
        return error, worst_ratio(got, self.exact, self.bound) <= self.admitted
