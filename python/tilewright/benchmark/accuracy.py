"""Compares a contender's result with the product in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilewright.kernels.matmul.bound import error_bound, worst_ratio
from tilewright.kernels.matmul.problem import MatmulProblem

_ROWS = 64


@dataclass(slots=True)
class Judge:
    """Knows y in float64 on some rows, and how far each element may be from it.

    Right is what is within the bound of `kernels.matmul.bound`, or errs at most twice as much (in units of
    that bound) as torch's own result, once `admit` was given it.
    """

    rows: Tensor
    exact: Tensor
    bound: Tensor
    admitted: float = 1.0

    def error(self, y: Tensor) -> tuple[float, bool]:
        """The largest absolute error on the rows that are checked, and whether every element is right."""
        got = y.detach()[self.rows]
        return float((got.double() - self.exact).abs().max()), self._ratio(got) <= self.admitted

    def admit(self, theirs: Tensor) -> None:
        """Takes torch's own result as a yardstick."""
        self.admitted = max(self.admitted, 2 * self._ratio(theirs.detach()[self.rows]))

    def _ratio(self, got: Tensor) -> float:
        return worst_ratio(got, self.exact, self.bound)


def judge(problem: MatmulProblem, x: Tensor, w: Tensor, bias: Tensor | None, activation: str) -> Judge:
    """For x (M, K) and w (K, N). All rows of few, 64 of many: the oracle is slow."""
    rows = torch.arange(x.shape[0], device=x.device)
    if len(rows) > _ROWS:
        rows = torch.linspace(0, x.shape[0] - 1, _ROWS, device=x.device).round().long()
    exact = error_bound(
        x[rows],
        w,
        bias,
        activation=activation,
        out_dtype=problem.out_dtype,
        precision=problem.precision,
    )
    return Judge(rows, exact.y, exact.y_bound)
