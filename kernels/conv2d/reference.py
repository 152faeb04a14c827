"""The oracle: the definition, tap by tap of the kernel window, in float64 and rounded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.epilogue import activate
from tilewright.kernels.frozen import unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch


def convolve(problem: Conv2dProblem, first: Tensor, second: Tensor) -> Tensor:
    """The problem's sums, in the operands' dtype: of x and w, or dy and w, or dy and x, as its direction has it.

    A tap (r, s) of the window multiplies the pixels of y with those of x that lie under it; pixels of y whose tap
    falls outside of the image are left out, rather than multiplied by zero: 0·inf would be NaN.
    """
    groups = problem.groups
    out = torch.zeros(problem.out_shape, dtype=first.dtype, device=first.device)
    tensors = {"forward": (first, second, out), "input_gradient": (out, second, first)}
    x, w, y = tensors.get(problem.direction, (second, out, first))
    x, y = (image.unflatten(1, (groups, image.shape[1] // groups)) for image in (x, y))
    w = w.unflatten(0, (groups, w.shape[0] // groups))
    for tap, x_pixels, y_pixels in _taps(problem):
        pixels, weights, results = x[x_pixels], w[tap], y[y_pixels]
        if problem.direction == "forward":
            results += torch.einsum("ngchw,gkc->ngkhw", pixels, weights)
        elif problem.direction == "input_gradient":
            pixels += torch.einsum("ngkhw,gkc->ngchw", results, weights)
        else:
            weights += torch.einsum("ngkhw,ngchw->gkc", results, pixels)
    return out


Index = tuple[Any, ...]


def _taps(problem: Conv2dProblem) -> Iterator[tuple[Index, Index, Index]]:
    """For each tap of the window: its weights, the pixels of x under it, and the pixels of y that see those."""
    for r in range(problem.kernel[0]):
        x_rows, y_rows = _under(problem, 0, r)
        for s in range(problem.kernel[1]):
            x_columns, y_columns = _under(problem, 1, s)
            yield (..., r, s), (..., x_rows, x_columns), (..., y_rows, y_columns)


def _under(problem: Conv2dProblem, dim: int, tap: int) -> tuple[slice, slice]:
    """Rows (or columns) of x that a tap meets inside of the image, and those of y for which it does."""
    stride, size = problem.stride[dim], problem.size[dim]
    first = tap * problem.dilation[dim] - problem.padding[2 * dim]  # of x, for the first of y
    begin = max(0, -(first // stride))
    end = max(begin, min(problem.out_size[dim], (size - 1 - first) // stride + 1))
    start = begin * stride + first
    return slice(start, start + (end - begin - 1) * stride + 1 if end > begin else start, stride), slice(
        begin, end
    )


def column(bias: Tensor) -> Tensor:
    """The bias as it is added to an image: one value per channel."""
    return bias.view(-1, 1, 1)


def conv2d_float64(
    problem: Conv2dProblem,
    first: Tensor,
    second: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(y, z) in float64: ``z = sums + bias + residual`` and ``y = act(z)``; gradients have no epilogue."""
    z = convolve(problem, first.double(), second.double())
    if bias is not None:
        z = z + column(bias.double())
    if residual is not None:
        z = z + residual.double()
    return activate(z, problem.activation), z


def laid_out(problem: Conv2dProblem, out: Tensor) -> Tensor:
    """A copy of a result in the problem's dtype and with the strides that it promises."""
    copy = torch.empty_strided(
        problem.out_shape, problem.out_strides, dtype=problem.out_dtype, device=out.device
    )
    return copy.copy_(out)


@dataclass(frozen=True, slots=True)
class ReferenceConfig:
    algorithm: str = "float64"

    def __str__(self) -> str:
        return self.algorithm


class ReferenceConv2d:
    name = "reference"
    operation = "conv2d"
    device_kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")
    config_type = ReferenceConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        return None

    def configs(self, problem: Conv2dProblem, device: DeviceSpec) -> Iterable[ReferenceConfig]:
        return (ReferenceConfig(),)

    def rejects(self, config: ReferenceConfig, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
        if config != ReferenceConfig():
            return f"the reference has one config, {ReferenceConfig()}, not {config}"
        if not problem.dtype.is_floating_point:
            return f"float64 does not hold sums of {problem.dtype} exactly"
        return None

    def bind(self, config: ReferenceConfig, problem: Conv2dProblem) -> Launch:
        def launch(
            first: Tensor, second: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
        ) -> Tensor | tuple[Tensor, Tensor]:
            y, z = conv2d_float64(problem, first, second, bias, residual)
            return (
                (laid_out(problem, y), laid_out(problem, z)) if problem.keep_preact else laid_out(problem, y)
            )

        bound: Callable[..., Tensor | tuple[Tensor, Tensor]] = launch
        return unwrapped(bound) if problem.frozen_weight else bound


BACKEND = ReferenceConv2d()
