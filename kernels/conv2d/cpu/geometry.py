"""What the compiled kernels call x, w and y: a convolution as it is, an input gradient as one or several others.

An input gradient is a sum over those r for which ``oh = (ih + top - r·dilation) / stride`` is whole. Input rows whose
``ih + top`` leave the same rest when divided by the stride, a *phase*, share them: ``r = first + t·apart``. From one
such row to the next ih grows by the stride and oh by one, so that a phase is a convolution of dy with stride 1 and the
flipped kernel of these rows, in which the channels have changed places. The same holds for columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tilewright.kernels.conv2d.problem import Conv2dProblem


@dataclass(frozen=True, slots=True)
class Part:
    """One launch: the geometry fields of ``Conv2dPlan``, and what is added to addresses, in elements."""

    fields: dict[str, Any]
    weight_offset: int = 0
    y_offset: int = 0


@dataclass(frozen=True, slots=True)
class _Phase:
    """The rows (or columns) of dx from `begin` on, in steps of the stride."""

    begin: int
    count: int
    first: int  # of the kernel's rows
    apart: int
    kernel: int  # how many of them; 0: dx is zero here
    dilation: int
    padding: int


def forward(problem: Conv2dProblem) -> Part:
    """A convolution as it is."""
    top, _, left, _ = problem.padding
    return Part(
        {
            "in_channels": problem.in_channels,
            "out_channels": problem.out_channels,
            "size": problem.size,
            "out_size": problem.out_size,
            "kernel": problem.kernel,
            "stride": problem.stride,
            "dilation": problem.dilation,
            "padding": (top, left),
            "x_strides": problem.x_strides,
            "weight_strides": problem.weight_strides,
            "weight_group_stride": problem.out_channels // problem.groups * problem.weight_strides[0],
            "flipped": False,
            "y_strides": problem.y_strides,
        }
    )


def input_gradient(problem: Conv2dProblem) -> list[Part]:
    """The phases of dx that are not zero; dx lies as ``problem.x_strides`` say."""
    n, c, h, w = problem.x_strides
    k_stride, c_stride, r_stride, s_stride = problem.weight_strides
    parts = []
    for rows in _phases(problem, 0):
        for columns in _phases(problem, 1):
            if rows.kernel == 0 or columns.kernel == 0:
                continue
            parts.append(
                Part(
                    {
                        "in_channels": problem.out_channels,
                        "out_channels": problem.in_channels,
                        "size": problem.out_size,
                        "out_size": (rows.count, columns.count),
                        "kernel": (rows.kernel, columns.kernel),
                        "stride": (1, 1),
                        "dilation": (rows.dilation, columns.dilation),
                        "padding": (rows.padding, columns.padding),
                        "x_strides": problem.y_strides,
                        "weight_strides": (
                            c_stride,
                            k_stride,
                            rows.apart * r_stride,
                            columns.apart * s_stride,
                        ),
                        "weight_group_stride": problem.out_channels // problem.groups * k_stride,
                        "flipped": True,
                        "y_strides": (n, c, h * problem.stride[0], w * problem.stride[1]),
                    },
                    weight_offset=rows.first * r_stride + columns.first * s_stride,
                    y_offset=rows.begin * h + columns.begin * w,
                )
            )
    return parts


def has_gaps(problem: Conv2dProblem) -> bool:
    """Whether some of dx is zero because no window covers it, so that no launch writes it."""
    return any(phase.kernel == 0 for dim in range(2) for phase in _phases(problem, dim))


def _phases(problem: Conv2dProblem, dim: int) -> Iterator[_Phase]:
    size, stride, dilation = problem.size[dim], problem.stride[dim], problem.dilation[dim]
    kernel, before = problem.kernel[dim], problem.padding[2 * dim]
    common = math.gcd(stride, dilation)
    for begin in range(min(stride, size)):
        rows = [r for r in range(kernel) if (begin + before - r * dilation) % stride == 0]
        # With r from the last to the first, the window begins where the last row of the kernel meets dx's first.
        padding = (rows[-1] * dilation - begin - before) // stride if rows else 0
        yield _Phase(
            begin=begin,
            count=-(-(size - begin) // stride),
            first=rows[0] if rows else 0,
            apart=stride // common,
            kernel=len(rows),
            dilation=dilation // common,
            padding=padding,
        )


def reduction_channels(problem: Conv2dProblem) -> int:
    """Channels of one group that a kernel sums over."""
    channels = problem.in_channels if problem.direction == "forward" else problem.out_channels
    return channels // max(problem.groups, 1)


def output_channels(problem: Conv2dProblem) -> int:
    """Channels of one group that a kernel computes."""
    channels = problem.out_channels if problem.direction == "forward" else problem.in_channels
    return channels // max(problem.groups, 1)


def conv_out_size(problem: Conv2dProblem) -> tuple[int, int]:
    """Of the image that a kernel computes."""
    return problem.out_size if problem.direction == "forward" else problem.size


def conv_stride(problem: Conv2dProblem) -> tuple[int, int]:
    """Of a kernel's windows."""
    return problem.stride if problem.direction == "forward" else (1, 1)


def input_strides(problem: Conv2dProblem) -> tuple[int, ...]:
    """(n, c, h, w) of what a kernel reads."""
    return problem.x_strides if problem.direction == "forward" else problem.y_strides
