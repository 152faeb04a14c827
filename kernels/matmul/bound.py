"""How far a matmul kernel may be from the exact result: the bound that tuning and the tests hold it to.

It is that of ``kernels/bound.py`` with sums of K terms and S = |A|·|B| + |bias| + |residual|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.bound import Exact, Pair, bounded, exactly, judge
from tilewright.kernels.epilogue import activate
from tilewright.kernels.frozen import thawed
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.reference import matmul_float64


def error_bound(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
    out_dtype: torch.dtype | None = None,
    precision: str = "ieee",
) -> Exact:
    """The exact results of ``act(a·b + bias + residual)`` and their bounds, for floating-point operands."""
    y, z = matmul_float64(a, b, bias, residual, activation)
    product = matmul_float64(a.abs(), b.abs())[0]
    terms = product
    if bias is not None:
        terms = terms + (bias.reshape(()) if b.ndim == 1 else bias).double().abs()
    if residual is not None:
        terms = terms + residual.double().abs()
    return bounded(
        y,
        z,
        product,
        terms,
        a.shape[-1],
        activation=activation,
        dtype=a.dtype,
        out_dtype=out_dtype or a.dtype,
        precision=precision,
    )


def oracle(problem: MatmulProblem, inputs: Sequence[Any]) -> Callable[[Sequence[Any]], str | None]:
    """A function that judges the outputs (y, or y and the pre-activation) of a kernel run on `inputs`.

    It returns None for a right result and a sentence that says what is wrong otherwise.
    """
    a, b, bias, residual = map(thawed, inputs)
    count = 2 if problem.keep_preact else 1
    return judge(
        ("y", "pre-activation")[:count],
        problem.out_shape,
        torch.empty(problem.out_shape, device="meta").stride(),
        problem.out_dtype,
        lambda: _pairs(problem, a, b, bias, residual)[:count],
        lambda: _torchs(problem, a, b, bias, residual)[:count],
    )


def _pairs(
    problem: MatmulProblem, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> list[Pair]:
    if not problem.dtype.is_floating_point:
        z = torch.matmul(a.cpu(), b.cpu()).to(a.device)
        for addend in (bias, residual):
            z = z if addend is None else z + addend
        return exactly([activate(z, problem.activation).to(problem.out_dtype), z.to(problem.out_dtype)])
    exact = error_bound(
        a,
        b,
        bias,
        residual,
        activation=problem.activation,
        out_dtype=problem.out_dtype,
        precision=problem.precision,
    )
    return [(exact.y, exact.y_bound), (exact.z, exact.z_bound)]


def _torchs(
    problem: MatmulProblem, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> list[Tensor]:
    z = torch.matmul(a, b)
    if bias is not None:
        z = z + (bias.reshape(()) if b.ndim == 1 else bias)
    if residual is not None:
        z = z + residual
    return [activate(z, problem.activation), z]
