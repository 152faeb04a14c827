"""Random operands for a given convolution, down to their strides and alignment: what tuning runs on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentError
from tilewright.kernels.conv2d.problem import Conv2dProblem, output_strides
from tilewright.kernels.frozen import FrozenOperand
from tilewright.kernels.inputs import Layout, random_operand, without_memory

Inputs = tuple[Any, ...]


def random_inputs(
    problem: Conv2dProblem, device: torch.device, generator: torch.Generator | None = None
) -> Inputs:
    """Fresh operands, as the problem's launch takes them, from which ``from_tensors`` builds exactly `problem`.

    Forward: (x, weight, bias, residual); gradients: (dy, weight) and (dy, x). Values are standard normal and those
    of the second operand scaled by one over the root of the sums' length, so that every output is of the order of
    one and no dtype overflows; integers lie between -4 and 4. A frozen weight comes as a `FrozenOperand`, with
    nothing packed.

    Raises:
        ArgumentError: an operand's strides span more than 8 GiB, or no tensors have the problem's strides.
    """
    layouts = _layouts(problem)
    dtypes = (problem.dtype, problem.dtype, problem.bias_dtype, problem.residual_dtype)[: len(layouts)]
    hollow = [without_memory(layout, dtype) for layout, dtype in zip(layouts, dtypes, strict=True)]
    if not _gives(problem, hollow):
        raise ArgumentError(f"conv2d: no operands have the geometry of {problem.describe()}")
    misaligned = problem.alignment if 0 < problem.alignment < 16 else 0
    scales = (1.0, 1 / math.sqrt(max(problem.terms, 1)), 1.0, 1.0)
    filled: list[Any] = [
        None
        if layout is None or dtype is None
        else random_operand("conv2d", layout, dtype, scale, offset, device, generator)
        for layout, dtype, scale, offset in zip(layouts, dtypes, scales, (misaligned, 0, 0, 0), strict=False)
    ]
    if problem.frozen_weight:
        filled[1] = FrozenOperand(filled[1])
    return tuple(filled)


def _layouts(problem: Conv2dProblem) -> list[Layout | None]:
    x: Layout = (problem.x_shape, problem.x_strides)
    weight: Layout = (problem.weight_shape, problem.weight_strides)
    y: Layout = (problem.y_shape, problem.y_strides)
    if problem.direction == "input_gradient":
        return [y, weight]
    if problem.direction == "weight_gradient":
        return [y, x]
    bias = ([problem.out_channels], [problem.bias_stride]) if problem.bias_dtype is not None else None
    residual = problem.residual_strides
    return [x, weight, bias, None if residual is None else (problem.y_shape, residual)]


def _gives(problem: Conv2dProblem, tensors: list[Tensor | None]) -> bool:
    """Whether tensors of this geometry lead back to the problem; device and alignment aside."""
    first, second, *addends = tensors
    x, weight, grad = {
        "forward": (first, second, None),
        "input_gradient": (torch.Size(problem.x_shape), second, first),
        "weight_gradient": (second, torch.Size(problem.weight_shape), first),
    }[problem.direction]
    assert x is not None
    assert weight is not None
    again = Conv2dProblem.from_tensors(
        x,
        weight,
        *addends,
        grad=grad,
        channels_last=problem.out_strides == output_strides(problem.out_shape, True),
        stride=problem.stride,
        padding=problem.padding,
        dilation=problem.dilation,
        groups=problem.groups,
        activation=problem.activation,
        keep_preact=problem.keep_preact,
        precision=problem.precision,
        deterministic=problem.deterministic,
        threads=problem.threads,
        frozen_weight=problem.frozen_weight,
    )
    return replace(again, device=problem.device, alignment=problem.alignment) == problem
