"""The conv2d operations' arguments and schemas, and the shortest way to call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from tilewright.kernels.epilogue import NEEDS_PREACT
from tilewright.ops.library import Operation, any_requires_grad, is_grad_enabled, transforms_active


class Geometry(NamedTuple):
    """How a window walks over an image, as the operations' schemas have it."""

    stride: Sequence[int] = (1, 1)
    padding: Sequence[int] = (0, 0, 0, 0)  # top, bottom, left, right
    dilation: Sequence[int] = (1, 1)
    groups: int = 1


class Conv2dArguments(NamedTuple):
    """What both forward operations take, in the order of their schema; `tilewright.conv2d` says what it means."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "none"
    stride: Sequence[int] = (1, 1)
    padding: Sequence[int] = (0, 0, 0, 0)
    dilation: Sequence[int] = (1, 1)
    groups: int = 1

    @property
    def geometry(self) -> Geometry:
        return Geometry(*self[5:])


class InputGradientArguments(NamedTuple):
    """The gradient of x (N, C, *size), from that of y and the weight."""

    grad: Tensor
    weight: Tensor
    size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    channels_last: bool

    @property
    def geometry(self) -> Geometry:
        return Geometry(*self[3:7])


class WeightGradientArguments(NamedTuple):
    """The gradient of the weight (K, C / groups, *kernel), from that of y and x."""

    grad: Tensor
    x: Tensor
    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    channels_last: bool

    @property
    def geometry(self) -> Geometry:
        return Geometry(*self[3:7])


_SCHEMA = (
    "(Tensor x, Tensor weight, Tensor? bias=None, Tensor? residual=None, "
    'str activation="none", SymInt[] stride=[1, 1], SymInt[] padding=[0, 0, 0, 0], SymInt[] dilation=[1, 1], '
    "SymInt groups=1) -> "
)
_GEOMETRY = (
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, bool channels_last) -> Tensor"
)

CONV2D = Operation(f"conv2d{_SCHEMA}Tensor", Conv2dArguments)
CONV2D_WITH_PREACT = Operation(f"conv2d_with_preact{_SCHEMA}(Tensor, Tensor)", Conv2dArguments)
"""Also returns the pre-activation, which the gradients of gelu and silu need."""

INPUT_GRADIENT = Operation(
    f"conv2d_input_gradient(Tensor grad, Tensor weight, SymInt[] size, {_GEOMETRY}", InputGradientArguments
)
WEIGHT_GRADIENT = Operation(
    f"conv2d_weight_gradient(Tensor grad, Tensor x, SymInt[] kernel, {_GEOMETRY}", WeightGradientArguments
)


def call(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """The convolution, with gradients, functorch and forward-mode AD seen to; arguments are checked where they run."""
    if transforms_active():
        y: Tensor = CONV2D.decompose(
            Conv2dArguments(x, weight, bias, residual, activation, stride, padding, dilation, groups)
        )
        return y
    gradients = is_grad_enabled() and any_requires_grad(x, weight, bias, residual)
    args: tuple[object, ...]
    if groups != 1:
        args = (x, weight, bias, residual, activation, stride, padding, dilation, groups)
    elif dilation != (1, 1):
        args = (x, weight, bias, residual, activation, stride, padding, dilation)
    elif padding != (0, 0, 0, 0):
        args = (x, weight, bias, residual, activation, stride, padding)
    elif stride != (1, 1):
        args = (x, weight, bias, residual, activation, stride)
    elif activation != "none" or residual is not None:
        args = (x, weight, bias, residual, activation)
    else:
        args = (x, weight, bias)
    if gradients and activation in NEEDS_PREACT:
        y, _ = CONV2D_WITH_PREACT.call(args, gradients)
    else:
        y = CONV2D.call(args, gradients)
    return y


def input_gradient(
    grad: Tensor, weight: Tensor, size: Sequence[int], geometry: Geometry, channels_last: bool
) -> Tensor:
    """The gradient of x (N, C, *size), itself differentiable; laid out as `channels_last` says."""
    given = InputGradientArguments(grad, weight, size, *geometry, channels_last)
    return _gradient(INPUT_GRADIENT, given)


def weight_gradient(
    grad: Tensor, x: Tensor, kernel: Sequence[int], geometry: Geometry, channels_last: bool
) -> Tensor:
    """The gradient of the weight (K, C / groups, *kernel), itself differentiable."""
    given = WeightGradientArguments(grad, x, kernel, *geometry, channels_last)
    return _gradient(WEIGHT_GRADIENT, given)


def _gradient(
    operation: Operation[InputGradientArguments] | Operation[WeightGradientArguments],
    given: InputGradientArguments | WeightGradientArguments,
) -> Tensor:
    found: Tensor
    if transforms_active():
        found = operation.decompose(given)  # type: ignore[arg-type]
    else:
        gradients = is_grad_enabled() and any_requires_grad(given[0], given[1])
        found = operation.call(given, gradients)
    return found
