"""What the conv2d operations take, and what they say of anything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, DtypeError
from tilewright.kernels.conv2d.problem import output_size
from tilewright.ops import checks
from tilewright.ops.conv2d_op import (
    Conv2dArguments,
    Geometry,
    InputGradientArguments,
    WeightGradientArguments,
)


def check(given: Conv2dArguments, operation: str = "conv2d") -> list[int]:
    """Raises on anything that the operation does not take; returns the output's shape. Runs nothing."""
    x, weight, bias, residual, activation, *_ = given
    tensors = (("x", x), ("weight", weight), ("bias", bias), ("residual", residual))
    for name, tensor in tensors:
        if tensor is not None or name in ("x", "weight"):
            checks.check_tensor(operation, name, tensor)
    checks.check_device(operation, "x", x, tensors[1:])
    checks.check_operand_dtypes(operation, "x", x, "weight", weight)
    checks.check_activation(operation, activation, x.dtype)
    geometry = given.geometry
    _check_images(operation, "x", x)
    check_weight(operation, weight)
    check_geometry(operation, geometry)
    _check_dilated_integers(operation, x, geometry)
    _check_channels(operation, x.shape[1], weight, geometry.groups)
    out_shape = [
        x.shape[0],
        weight.shape[0],
        *_check_window(operation, x.shape[2:], weight.shape[2:], geometry),
    ]
    if bias is not None:
        checks.check_addend_dtype(operation, "bias", bias, "x", x)
        if bias.ndim != 1 or bias.shape[0] != out_shape[1]:
            checks.shape_error(
                operation,
                "bias",
                bias.shape,
                f"({out_shape[1]},), one value per output channel",
                "reshape it, or pass it as residual, which broadcasts",
            )
    if residual is not None:
        checks.check_addend_dtype(operation, "residual", residual, "x", x)
        checks.check_residual(operation, residual, out_shape)
    return out_shape


def check_input_gradient(given: InputGradientArguments) -> list[int]:
    """The same for the gradient of x; returns its shape."""
    operation = "conv2d_input_gradient"
    grad, weight, size, geometry = given.grad, given.weight, given.size, given.geometry
    _check_gradient_operands(operation, grad, "weight", weight)
    check_weight(operation, weight)
    check_geometry(operation, geometry)
    _check_two(operation, "size", size, least=1)
    _check_divides(operation, weight, geometry.groups)
    out_size = _check_window(operation, size, weight.shape[2:], geometry)
    _check_gradient_shape(operation, grad, (grad.shape[0], weight.shape[0], *out_size))
    return [grad.shape[0], weight.shape[1] * geometry.groups, *size]


def check_weight_gradient(given: WeightGradientArguments) -> list[int]:
    """The same for the gradient of the weight; returns its shape."""
    operation = "conv2d_weight_gradient"
    grad, x, kernel, geometry = given.grad, given.x, given.kernel, given.geometry
    _check_gradient_operands(operation, grad, "x", x)
    _check_images(operation, "x", x)
    check_geometry(operation, geometry)
    _check_two(operation, "kernel", kernel, least=1)
    groups = geometry.groups
    for name, tensor in (("x", x), ("grad", grad)):
        if tensor.shape[1] % groups:
            checks.shape_error(
                operation, name, tensor.shape, f"channels that {groups} groups divide", "change groups"
            )
    out_size = _check_window(operation, x.shape[2:], kernel, geometry)
    _check_gradient_shape(operation, grad, (x.shape[0], grad.shape[1], *out_size))
    return [grad.shape[1], x.shape[1] // groups, *kernel]


def _check_gradient_operands(operation: str, grad: Any, name: str, other: Any) -> None:
    checks.check_tensor(operation, "grad", grad)
    checks.check_tensor(operation, name, other)
    checks.check_device(operation, "grad", grad, ((name, other),))
    checks.check_operand_dtypes(operation, "grad", grad, name, other)
    if not grad.is_floating_point():
        raise DtypeError(
            f"{operation}: grad has dtype {checks.dtype_text(grad.dtype)}; expected a floating dtype, as integers "
            "have no gradients; convert it with .float()"
        )
    _check_images(operation, "grad", grad)


def _check_gradient_shape(operation: str, grad: Tensor, expected: Sequence[int]) -> None:
    if tuple(grad.shape) != tuple(expected):
        checks.shape_error(
            operation,
            "grad",
            grad.shape,
            f"{checks.shape_text(expected)}, the convolution's output",
            "pass the sizes, stride, padding, dilation and groups of the convolution",
        )


def _check_images(operation: str, name: str, x: Tensor) -> None:
    if x.ndim != 4:
        checks.shape_error(operation, name, x.shape, "(N, C, H, W)", "reshape it")


def check_weight(operation: str, weight: Tensor) -> None:
    if weight.ndim != 4:
        checks.shape_error(
            operation,
            "weight",
            weight.shape,
            "(out_channels, in_channels / groups, height, width)",
            "reshape it",
        )
    if 0 in weight.shape:
        checks.shape_error(
            operation,
            "weight",
            weight.shape,
            "at least one channel in and out, and a window of at least 1x1",
            "leave the layer out",
        )


def _check_divides(operation: str, weight: Tensor, groups: int) -> None:
    if weight.shape[0] % groups:
        checks.shape_error(
            operation,
            "weight",
            weight.shape,
            f"out_channels that groups = {groups} divides",
            "change groups or the number of output channels",
        )


def _check_channels(operation: str, channels: int, weight: Tensor, groups: int) -> None:
    if weight.shape[1] * groups != channels:
        checks.shape_error(
            operation,
            "weight",
            weight.shape,
            f"(out_channels, {channels} / groups, height, width) with groups = {groups} to match the {channels} "
            "channels of x",
            "change groups, or use the layer with x of its in_channels",
        )
    _check_divides(operation, weight, groups)


def check_geometry(operation: str, geometry: Geometry) -> None:
    stride, padding, dilation, groups = geometry
    _check_two(operation, "stride", stride, least=1)
    _check_two(operation, "dilation", dilation, least=1)
    if len(padding) != 4 or any(each < 0 for each in padding):
        raise ArgumentError(
            f"{operation}: padding is {_plain(padding)}; expected integers of at least 0 (top, bottom, left, right); "
            "crop x with slices instead of negative padding"
        )
    if groups < 1:
        raise ArgumentError(
            f"{operation}: groups is {groups}; expected an integer of at least 1; leave it out for a plain convolution"
        )


def _check_two(operation: str, name: str, value: Sequence[int], least: int) -> None:
    # Each by itself: min() would compare them with one another, on which a trace would be specialized.
    if len(value) != 2 or any(each < least for each in value):
        raise ArgumentError(
            f"{operation}: {name} is {_plain(value)}; expected two integers of at least {least} (height, width); "
            f"correct {name}"
        )


def _plain(value: Sequence[int]) -> Any:
    return tuple(value)


def _check_dilated_integers(operation: str, x: Tensor, geometry: Geometry) -> None:
    if x.dtype in checks.INTEGER_DTYPES - {torch.int64} and tuple(geometry.dilation) != (1, 1):
        raise DtypeError(
            f"{operation}: x has dtype {checks.dtype_text(x.dtype)} and dilation is {_plain(geometry.dilation)}; "
            "expected int64 or a floating dtype, as torch dilates no other integers; convert x and weight with .long()"
        )


def _check_window(
    operation: str, size: Sequence[int], kernel: Sequence[int], geometry: Geometry
) -> tuple[int, int]:
    """The output's height and width, which the window must fit at least once."""
    stride, padding, dilation, _ = geometry
    for i, (name, side) in enumerate((("height", "top and bottom"), ("width", "left and right"))):
        padded = size[i] + padding[2 * i] + padding[2 * i + 1]
        reach = dilation[i] * (kernel[i] - 1) + 1
        if reach > padded or size[i] == 0:
            dilated = f" dilated to {reach}" if dilation[i] > 1 else ""
            checks.shape_error(
                operation,
                "weight",
                [..., ..., *kernel],
                f"a window of at most the padded image, whose {name} is {padded}; it is {kernel[i]}{dilated}",
                f"use a larger image, or pad it at the {side}",
            )
    return output_size(size, kernel, stride, padding, dilation)
