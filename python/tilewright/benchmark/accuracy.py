"""Compares a contender's result with the product in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilewright.kernels.epilogue import activate
from tilewright.kernels.matmul.bound import error_bound, worst_ratio
from tilewright.kernels.matmul.problem import MatmulProblem

_ROWS = 64


@dataclass(frozen=True, slots=True)
class Judge:
    """Knows y in float64 on some rows, and how far each element may be from it.

    Right is what is within the bound of `kernels.matmul.bound`, or errs at most `admitted` times as much as that:
    twice what torch's own operators do, one after the other.
    """

    rows: Tensor
    exact: Tensor
    bound: Tensor
    admitted: float

    def error(self, y: Tensor) -> tuple[float, bool]:
        """The largest absolute error on the rows that are checked, and whether every element is right."""
        got = y.detach()[self.rows]
        error = float((got.double() - self.exact).abs().max())
        return error, worst_ratio(got, self.exact, self.bound) <= self.admitted


def judge(problem: MatmulProblem, x: Tensor, w: Tensor, bias: Tensor | None, activation: str) -> Judge:
    """For x (M, K) and w (K, N). All rows of few, 64 of many: the oracle is slow."""
    rows = torch.arange(x.shape[0], device=x.device)
    if len(rows) > _ROWS:
        rows = torch.linspace(0, x.shape[0] - 1, _ROWS, device=x.device).round().long()
    chosen = x[rows]
    exact = error_bound(
        chosen,
        w,
        bias,
        activation=activation,
        out_dtype=problem.out_dtype,
        precision=problem.precision,
    )
    z = torch.matmul(chosen, w)
    theirs = activate(z if bias is None else z + bias, activation).to(problem.out_dtype)
    admitted = max(1.0, 2 * worst_ratio(theirs, exact.y, exact.y_bound))
    return Judge(rows, exact.y, exact.y_bound, admitted)
