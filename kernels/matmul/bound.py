"""How far a matmul kernel may be from the exact result: the bound that tuning and the tests hold it to.

With fp32 accumulation over K terms, unit roundoff u = 2⁻²⁴, and S = |A|·|B| + |bias| + |residual|::

    |ẑ - z| ≤ (4 + 2√K) · u · S                     the sum, in whatever order
              + 2⁻⁹ · |A|·|B|                       tf32 only: two operands cut to 10 bits
    |ŷ - y| ≤ L · |ẑ - z| + 8u · |z| + u_out · |y|  L = max |act'|; one rounding at the store

√K and not K: rounding errors of a long sum cancel like a random walk (Higham and Mary, "A new approach to
probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019); a lost or doubled term of a random
product is far larger. A result is also right if it errs no more than twice as much as torch's own does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.epilogue import activate
from tilewright.kernels.frozen import thawed
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.reference import matmul_float64

_STEEPEST = {"none": 1.0, "relu": 1.0, "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1}


@dataclass(frozen=True, slots=True)
class Exact:
    """float64 results with the largest error that each element may have."""

    y: Tensor
    y_bound: Tensor
    z: Tensor
    z_bound: Tensor


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
    out_dtype = out_dtype or a.dtype
    y, z = matmul_float64(a, b, bias, residual, activation)
    product = matmul_float64(a.abs(), b.abs())[0]
    terms = product
    if bias is not None:
        terms = terms + (bias.reshape(()) if b.ndim == 1 else bias).double().abs()
    if residual is not None:
        terms = terms + residual.double().abs()
    # float64 operands are compared with a float64 sum, which errs itself.
    unit = 2.0**-52 if a.dtype == torch.float64 else 2.0**-24
    summed = (4 + 2 * math.sqrt(a.shape[-1])) * unit * terms
    if precision == "tf32" and a.dtype == torch.float32:
        summed = summed + 2.0**-9 * product
    info = torch.finfo(out_dtype)
    rounding = info.eps / 2
    least = info.tiny * info.eps + torch.finfo(torch.float32).tiny
    z_bound = summed + rounding * (z.abs() + summed) + least
    acted = _STEEPEST[activation] * summed + 8 * unit * z.abs()
    y_bound = acted + rounding * (y.abs() + acted) + least
    return Exact(y, y_bound, z, z_bound)


def worst_ratio(out: Tensor, exact: Tensor, bound: Tensor) -> float:
    """The largest error in units of its bound; at most 1 is right. NaN and infinities must agree exactly."""
    if out.numel() == 0:
        return 0.0
    ratio = (out.double() - exact).abs() / bound
    expected = exact.to(out.dtype)
    same = (out == expected) | (out.isnan() & expected.isnan())
    ratio = torch.where(same, 0.0, ratio.nan_to_num(nan=math.inf, posinf=math.inf))
    return float(ratio.max())


def oracle(problem: MatmulProblem, inputs: Sequence[Any]) -> Callable[[Sequence[Any]], str | None]:
    """A function that judges the outputs (y, or y and the pre-activation) of a kernel run on `inputs`.

    It returns None for a right result and a sentence that says what is wrong otherwise.
    """
    a, b, bias, residual = map(thawed, inputs)
    names = ("y", "pre-activation") if problem.keep_preact else ("y",)
    exact = _Lazy(lambda: _pairs(problem, a, b, bias, residual))
    own = _Lazy(lambda: _torch_ratios(problem, a, b, bias, residual, exact()))

    def judge(outputs: Sequence[Any]) -> str | None:
        if len(outputs) != len(names):
            return f"returned {len(outputs)} tensors, expected {len(names)}"
        for index, (name, out) in enumerate(zip(names, outputs, strict=True)):
            if not isinstance(out, Tensor) or tuple(out.shape) != problem.out_shape:
                return f"{name} has shape {tuple(getattr(out, 'shape', ()))}, expected {problem.out_shape}"
            if out.dtype != problem.out_dtype or not out.is_contiguous():
                got = f"{out.dtype} with strides {out.stride()}"
                return f"{name} is {got}, expected {problem.out_dtype}, contiguous"
            value, bound = exact()[index]
            ratio = worst_ratio(out, value, bound)
            if ratio > 1 and not ratio <= 2 * own()[index]:
                return _describe(name, out, value, bound, ratio)
        return None

    return judge


class _Lazy:
    """Computed when first asked for, then kept."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self._compute = compute
        self._value: Any = None

    def __call__(self) -> Any:
        if self._value is None:
            self._value = self._compute()
        return self._value


def _pairs(
    problem: MatmulProblem, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    if not problem.dtype.is_floating_point:
        # Integer sums wrap; every order of them gives the same bits.
        z = torch.matmul(a.cpu(), b.cpu()).to(a.device)
        for addend in (bias, residual):
            z = z if addend is None else z + addend
        y = activate(z, problem.activation).to(problem.out_dtype)
        z = z.to(problem.out_dtype)
        return [(x.double(), torch.full_like(x, 0.5, dtype=torch.float64)) for x in (y, z)]
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


def _torch_ratios(
    problem: MatmulProblem,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    exact: list[tuple[Tensor, Tensor]],
) -> list[float]:
    """How far torch's own result is off, in units of the bound."""
    z = torch.matmul(a, b)
    if bias is not None:
        z = z + (bias.reshape(()) if b.ndim == 1 else bias)
    if residual is not None:
        z = z + residual
    y = activate(z, problem.activation)
    return [
        worst_ratio(out.to(problem.out_dtype), value, bound)
        for out, (value, bound) in zip((y, z), exact, strict=True)
    ]


def _describe(name: str, out: Tensor, exact: Tensor, bound: Tensor, ratio: float) -> str:
    error = (out.double() - exact).abs() / bound
    at = int(error.nan_to_num(nan=math.inf).flatten().argmax())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), out.shape))
    got, expected, allowed = (float(x.flatten()[at]) for x in (out, exact, bound))
    wrong = int((~(error <= 1)).sum())
    return (
        f"{name} is wrong in {wrong} of {out.numel()} elements, worst at {place}: got {got:.6g}, "
        f"expected {expected:.6g} ± {allowed:.1e} ({ratio:.3g} times the bound)"
    )
