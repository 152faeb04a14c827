"""How far a sparse_matmul kernel may be from the exact result: the bound that tuning and the tests hold it to.

It is that of ``kernels/bound.py`` with sums of as many terms as the fullest row keeps and S = |x|·|W| + |bias| +
|residual|, taken over the kept positions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.bound import Pair, bounded, judge
from tilewright.kernels.epilogue import activate
from tilewright.kernels.sparse_matmul.operand import SparseOperand
from tilewright.kernels.sparse_matmul.problem import SparseMatmulProblem
from tilewright.kernels.sparse_matmul.reference import product_float64, sparse_matmul_float64


def oracle(problem: SparseMatmulProblem, inputs: Sequence[Any]) -> Callable[[Sequence[Any]], str | None]:
    """A function that judges the outputs (y, or y and the pre-activation) of a kernel run on `inputs`.

    It returns None for a right result and a sentence that says what is wrong otherwise.
    """
    x, weight, bias, residual = inputs
    count = 2 if problem.keep_preact else 1
    return judge(
        ("y", "pre-activation")[:count],
        problem.out_shape,
        (problem.n, 1),
        problem.dtype,
        lambda: _pairs(problem, x, weight, bias, residual)[:count],
        lambda: _torchs(problem, x, weight, bias, residual)[:count],
    )


def _pairs(
    problem: SparseMatmulProblem,
    x: Tensor,
    weight: SparseOperand,
    bias: Tensor | None,
    residual: Tensor | None,
) -> list[Pair]:
    y, z = sparse_matmul_float64(x, weight, bias, residual, problem.activation)
    kept = weight.kept()
    product = product_float64(x.abs(), weight.dense().abs(), kept)
    terms = product
    for addend in (bias, residual):
        terms = terms if addend is None else terms + addend.double().abs()
    fullest = int(kept.sum(1).max()) if kept.numel() else 0
    exact = bounded(
        y,
        z,
        product,
        terms,
        fullest,
        activation=problem.activation,
        dtype=problem.dtype,
        out_dtype=problem.dtype,
        precision=problem.precision,
    )
    return [(exact.y, exact.y_bound), (exact.z, exact.z_bound)]


def _torchs(
    problem: SparseMatmulProblem,
    x: Tensor,
    weight: SparseOperand,
    bias: Tensor | None,
    residual: Tensor | None,
) -> list[Tensor]:
    z = torch.matmul(x, weight.dense().t())
    for addend in (bias, residual):
        z = z if addend is None else z + addend
    return [activate(z, problem.activation), z]
