"""How far a convolution kernel may be from the exact result: the bound that tuning and the tests hold it to.

It is that of ``kernels/bound.py``. A sum has ``C/groups·R·S`` terms (forward), ``K/groups·R·S`` (gradient of the input)
or ``N·P·Q`` (gradient of the weight), and S is the convolution of the operands' magnitudes, plus those of bias and
residual. Winograd's convolution has a bound of its own, which is in ``winograd.py``; where the problem admits it,
results within either are right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.bound import Exact, Pair, bounded, exactly, judge
from tilewright.kernels.conv2d import winograd
from tilewright.kernels.conv2d.aten import AtenConfig, bind_plain
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.reference import column, conv2d_float64, convolve
from tilewright.kernels.epilogue import activate
from tilewright.kernels.frozen import thawed


def error_bound(
    problem: Conv2dProblem,
    first: Tensor,
    second: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    config: Any = None,
) -> Exact:
    """The exact results of the problem on these operands and their bounds, for floating-point dtypes.

    Args:
        config: the kernel's: Winograd's has its own bound, others that of a plain sum. Without it, the larger of those
            that the problem admits.
    """
    y, z = conv2d_float64(problem, first, second, bias, residual)
    product = convolve(problem, first.double().abs(), second.double().abs())
    terms = product
    if bias is not None:
        terms = terms + column(bias.double().abs())
    if residual is not None:
        terms = terms + residual.double().abs()

    def within(summing: Tensor | None = None) -> Exact:
        return bounded(
            y,
            z,
            product,
            terms,
            problem.terms,
            activation=problem.activation,
            dtype=problem.dtype,
            out_dtype=problem.out_dtype,
            precision=problem.precision,
            summing=summing,
        )

    plain = within()
    chosen = config is not None and config.algorithm.startswith("winograd")
    if not (chosen or (config is None and winograd.admitted(problem))):
        return plain
    own = within(winograd.rounding(problem, first, second, terms - product))
    if chosen:
        return own
    return Exact(y, torch.maximum(plain.y_bound, own.y_bound), z, torch.maximum(plain.z_bound, own.z_bound))


def oracle(
    problem: Conv2dProblem, inputs: Sequence[Any], config: Any = None
) -> Callable[[Sequence[Any]], str | None]:
    """A function that judges the outputs (y or a gradient; with y, the pre-activation if kept) of a kernel.

    It returns None for a right result and a sentence that says what is wrong otherwise.

    Args:
        config: as for `error_bound`.
    """
    tensors = tuple(map(thawed, inputs))
    first = {"forward": "y", "input_gradient": "dx", "weight_gradient": "dw"}[problem.direction]
    count = 2 if problem.keep_preact else 1
    return judge(
        (first, "pre-activation")[:count],
        problem.out_shape,
        problem.out_strides,
        problem.out_dtype,
        lambda: _pairs(problem, *tensors, config=config)[:count],
        lambda: _torchs(problem, *tensors),
    )


def _pairs(
    problem: Conv2dProblem,
    first: Tensor,
    second: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    config: Any = None,
) -> list[Pair]:
    if not problem.dtype.is_floating_point:
        z = convolve(problem, first.long(), second.long()).to(problem.dtype)
        z = z if bias is None else z + column(bias)
        z = z if residual is None else z + residual
        return exactly([activate(z, problem.activation), z])
    exact = error_bound(problem, first, second, bias, residual, config=config)
    return [(exact.y, exact.y_bound), (exact.z, exact.z_bound)]


def _torchs(problem: Conv2dProblem, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """What torch's own operators make of it, one after the other."""
    returned = bind_plain(AtenConfig(), problem)(*tensors)
    return returned if isinstance(returned, tuple) else (returned,)
