"""Runs one CPU convolution kernel directly: no dispatch, no tuner, the ISA level and the config chosen by the test."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.cpu.support import spec
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.cpu import BACKEND, CpuConfig
from tilewright.kernels.conv2d.problem import Conv2dProblem, output_size
from tilewright.kernels.frozen import FrozenOperand

Result = Tensor | tuple[Tensor, Tensor]


@dataclass
class Case:
    """Operands and parameters of one convolution."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def problem(self, **changes: Any) -> Conv2dProblem:
        options = {"threads": 2, **self.parameters, **changes}
        return Conv2dProblem.from_tensors(self.x, self.weight, self.bias, self.residual, **options)

    def run(self, config: CpuConfig, **changes: Any) -> Result:
        """The result of one launch, after the config was accepted for the problem."""
        problem = self.problem(frozen_weight=config.pack == "frozen", **changes)
        assert BACKEND.rejects(config, problem, spec(config.isa)) is None
        weight = FrozenOperand(self.weight) if problem.frozen_weight else self.weight
        result: Result = BACKEND.bind(config, problem)(self.x, weight, self.bias, self.residual)
        return result

    def check(self, config: CpuConfig, **changes: Any) -> None:
        """Runs and compares with float64, under the bound that tuning uses too."""
        problem = self.problem(frozen_weight=config.pack == "frozen", **changes)
        result = self.run(config, **changes)
        outputs = result if isinstance(result, tuple) else (result,)
        verdict = oracle(problem, (self.x, self.weight, self.bias, self.residual))(outputs)
        assert verdict is None, f"{config} on {problem.describe()}: {verdict}"


SMALL_GROUPS = [
    (1, 1, 40),  # depthwise: (input channels, output channels) of a group, groups
    (1, 1, 5),
    (1, 2, 21),
    (1, 3, 9),
    (1, 20, 2),
    (2, 1, 17),
    (4, 4, 12),
    (8, 8, 5),
    (16, 16, 3),
    (16, 8, 3),
    (5, 7, 3),
    (33, 34, 2),
    (3, 40, 1),
]
"""Fewer groups than lanes, parts of vectors, several vectors in a group, more input channels than lanes."""


def small_groups(pick: random.Random) -> tuple[int, int, int]:
    """(groups, input channels, output channels), of all groups together."""
    inputs, outputs, groups = pick.choice(SMALL_GROUPS)
    return groups, groups * inputs, groups * outputs


def layer(
    image: tuple[int, int, int, int],
    out_channels: int,
    kernel: tuple[int, int] = (3, 3),
    *,
    groups: int = 1,
    dtype: torch.dtype = torch.float32,
    layout: str = "nhwc",
    bias: bool = True,
    **parameters: Any,
) -> Case:
    """Random operands: image (n, c, h, w), layout nchw, nhwc or strided."""
    n, c, h, w = image
    x = torch.randn(n, c, h, 2 * w)[..., ::2] if layout == "strided" else torch.randn(image)
    if layout == "nhwc":
        x = x.to(memory_format=torch.channels_last)
    weight = (
        torch.randn(out_channels, c // groups, *kernel) / max(c // groups * kernel[0] * kernel[1], 1) ** 0.5
    )
    addend = torch.randn(out_channels).to(dtype) if bias else None
    return Case(x.to(dtype), weight.to(dtype), addend, None, {"groups": groups, **parameters})


def any_channels(pick: random.Random) -> tuple[int, int, int]:
    """(groups, input channels, output channels), of all groups together."""
    groups = pick.choice((1, 1, 1, 2, 3))
    return (
        groups,
        groups * pick.choice((1, 2, 3, 5, 16, 17, 33)),
        groups * pick.choice((1, 3, 7, 16, 31, 32, 33, 40)),
    )


def random_case(
    pick: random.Random,
    dtype: torch.dtype,
    channels: Callable[[random.Random], tuple[int, int, int]] = any_channels,
) -> Case:
    """Any geometry: odd sizes, asymmetric padding, epilogues, layouts."""
    while True:
        group, c, k = channels(pick)
        kernel = pick.choice((1, 2, 3, 5)), pick.choice((1, 2, 3, 7))
        stride, dilation = (
            (pick.choice((1, 2, 3)), pick.choice((1, 2, 3))),
            (pick.choice((1, 2)), pick.choice((1, 3))),
        )
        padding = tuple(pick.choice((0, 1, 2, 3)) for _ in range(4))
        image = pick.choice((1, 2)), c, pick.randint(1, 17), pick.randint(1, 20)
        out = output_size(image[2:], kernel, stride, padding, dilation)
        if min(out) > 0:
            break
    case = layer(
        image,
        k,
        kernel,
        groups=group,
        dtype=dtype,
        layout=pick.choice(("nchw", "nhwc", "strided")),
        bias=pick.random() < 0.6,
        stride=stride,
        padding=padding,
        dilation=dilation,
        activation=pick.choice(("none", "relu", "gelu", "silu")),
        keep_preact=pick.random() < 0.3,
    )
    if pick.random() < 0.3:
        case.weight = case.weight.to(memory_format=torch.channels_last)
    if pick.random() < 0.5:
        shape = pick.choice(((image[0], k, *out), (1, k, 1, 1), (k, out[0], 1), (out[1],)))
        case.residual = torch.randn(shape).to(dtype)
        if len(shape) == 4 and pick.random() < 0.5:
            case.residual = case.residual.to(memory_format=torch.channels_last)
    return case
