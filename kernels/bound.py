"""How far a kernel's sums may be from the exact ones: what every operation's bound has in common.

With fp32 accumulation over K terms, unit roundoff u = 2⁻²⁴, and S the sum of the terms' magnitudes, those of bias
and residual included::

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

_STEEPEST = {"none": 1.0, "relu": 1.0, "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1}

Pair = tuple[Tensor, Tensor]
"""An exact result in float64 and the largest error that each of its elements may have."""


@dataclass(frozen=True, slots=True)
class Exact:
    """float64 results with the largest error that each element may have."""

    y: Tensor
    y_bound: Tensor
    z: Tensor
    z_bound: Tensor


def bounded(
    y: Tensor,
    z: Tensor,
    product: Tensor,
    terms: Tensor,
    length: int,
    *,
    activation: str,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    precision: str,
    summing: Tensor | None = None,
) -> Exact:
    """The exact results ``y = act(z)`` with their bounds.

    Args:
        y, z: in float64.
        product: |A|·|B|, the sum of the products' magnitudes.
        terms: the same with the magnitudes of bias and residual.
        length: how many products an element adds up.
        dtype, out_dtype: of the operands and of what is stored.
        summing: the largest error of z before it is rounded, for an algorithm with a bound of its own.
    """
    # float64 operands are compared with a float64 sum, which errs itself.
    unit = 2.0**-52 if dtype == torch.float64 else 2.0**-24
    summed = (4 + 2 * math.sqrt(length)) * unit * terms if summing is None else summing
    if precision == "tf32" and dtype == torch.float32 and summing is None:
        summed = summed + 2.0**-9 * product
    info = torch.finfo(out_dtype)
    rounding = info.eps / 2
    least = info.tiny * info.eps + torch.finfo(torch.float32).tiny
    z_bound = summed + rounding * (z.abs() + summed) + least
    acted = _STEEPEST[activation] * summed + 8 * unit * z.abs()
    y_bound = acted + rounding * (y.abs() + acted) + least
    return Exact(y, y_bound, z, z_bound)


def exactly(outputs: Sequence[Tensor]) -> list[Pair]:
    """Integer results, which admit no error: integer sums wrap, and every order of them gives the same bits."""
    return [(out.double(), torch.full_like(out, 0.5, dtype=torch.float64)) for out in outputs]


def worst_ratio(out: Tensor, exact: Tensor, bound: Tensor) -> float:
    """The largest error in units of its bound; at most 1 is right. NaN and infinities must agree exactly."""
    if out.numel() == 0:
        return 0.0
    ratio = (out.double() - exact).abs() / bound
    expected = exact.to(out.dtype)
    same = (out == expected) | (out.isnan() & expected.isnan())
    ratio = torch.where(same, 0.0, ratio.nan_to_num(nan=math.inf, posinf=math.inf))
    return float(ratio.max())


def judge(
    names: Sequence[str],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: torch.dtype,
    exact: Callable[[], Sequence[Pair]],
    torchs: Callable[[], Sequence[Tensor]],
) -> Callable[[Sequence[Any]], str | None]:
    """A function that says what is wrong with a kernel's outputs, in a sentence; None if they are right.

    Args:
        names: of the outputs.
        shape, strides, dtype: of each of them.
        exact: gives the exact outputs and their bounds; asked when first needed.
        torchs: gives torch's own outputs; asked when an output is beyond its bound.
    """
    pairs = _Lazy(exact)

    def compare() -> list[float]:
        """How far torch's own results are off, in units of the bound."""
        return [
            worst_ratio(out.to(dtype), value, bound)
            for out, (value, bound) in zip(torchs(), pairs(), strict=True)
        ]

    own = _Lazy(compare)

    def verdict(outputs: Sequence[Any]) -> str | None:
        if len(outputs) != len(names):
            return f"returned {len(outputs)} tensors, expected {len(names)}"
        for index, (name, out) in enumerate(zip(names, outputs, strict=True)):
            if not isinstance(out, Tensor) or tuple(out.shape) != shape:
                return f"{name} has shape {tuple(getattr(out, 'shape', ()))}, expected {shape}"
            if out.dtype != dtype or not _laid_out(out, strides):
                got = f"{out.dtype} with strides {out.stride()}"
                return f"{name} is {got}, expected {dtype} with strides {strides}"
            value, bound = pairs()[index]
            ratio = worst_ratio(out, value, bound)
            if ratio > 1 and not ratio <= 2 * own()[index]:
                return _describe(name, out, value, bound, ratio)
        return None

    return verdict


def _laid_out(out: Tensor, strides: tuple[int, ...]) -> bool:
    """Whether the tensor has these strides, wherever a stride means anything."""
    walks = zip(out.shape, out.stride(), strides, strict=True)
    return out.numel() == 0 or all(size == 1 or step == wanted for size, step, wanted in walks)


class _Lazy:
    """Computed when first asked for, then kept."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self._compute = compute
        self._value: Any = None

    def __call__(self) -> Any:
        if self._value is None:
            self._value = self._compute()
        return self._value


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
