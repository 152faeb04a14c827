"""oneDNN's convolution, as torch's own compiler calls it: with fused operators, on a weight in oneDNN's own layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.frozen import FrozenOperand

# oneDNN's fused relu turns NaN into 0, so relu is left to torch, which keeps it.
_ACTIVATIONS = {
    "none": ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
}

Core = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""(x, weight, bias, residual) to the convolution and whatever is fused with it."""


def rejects(algorithm: str, problem: Conv2dProblem) -> str | None:
    """Why oneDNN's operators cannot run the problem."""
    if problem.direction != "forward":
        return "torch offers oneDNN's fused convolution forward only"
    if problem.device != "cpu":
        return "oneDNN is for CPU tensors"
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        return "this build of torch carries no oneDNN convolution"
    if problem.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN does not compute bf16 on this CPU"
    if problem.dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return "oneDNN does not compute fp16 on this CPU"
    if problem.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"oneDNN does not compute {problem.dtype}"
    if 0 in (*problem.x_shape, *problem.weight_shape, *problem.y_shape):
        return "oneDNN takes no empty operands"
    if algorithm == "onednn_prepacked" and not problem.frozen_weight:
        return (
            "the weight may change between calls, so a packed copy could go stale; pack the weight of a frozen "
            "module"
        )
    return None


def core(problem: Conv2dProblem, padding: list[int]) -> tuple[Core, bool, bool, bool]:
    """The convolution, and whether it already adds the bias, adds the residual, applies the activation."""
    fuses_bias = problem.bias_dtype == problem.dtype
    has_bias, has_residual = problem.bias_dtype is not None, problem.residual_dtype is not None
    rest = (padding, problem.stride, problem.dilation, problem.groups)
    # A residual is fused as it is: of the output's shape and dtype, and after the bias.
    whole = all(
        size == 1 or step for size, step in zip(problem.y_shape, problem.residual_strides or (), strict=False)
    )
    if has_residual and whole and problem.residual_dtype == problem.dtype and (fuses_bias or not has_bias):
        binary = torch.ops.mkldnn._convolution_pointwise.binary
        shape = problem.y_shape

        def add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
            assert residual is not None
            out: Tensor = binary(x, residual.expand(shape), weight, bias, *rest, "add", 1.0, None, [], "")
            return out

        return add, fuses_bias, True, False

    fuses = not has_residual and not problem.keep_preact and (fuses_bias or not has_bias)
    fuses = fuses and problem.activation in _ACTIVATIONS
    attribute, variant = _ACTIVATIONS[problem.activation if fuses else "none"]
    pointwise = torch.ops.mkldnn._convolution_pointwise.default

    def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        out: Tensor = pointwise(x, weight, bias if fuses_bias else None, *rest, attribute, [], variant)
        return out

    return convolution, fuses_bias, False, fuses


def form_of(problem: Conv2dProblem) -> Callable[[FrozenOperand], Tensor]:
    """What finds the problem's weight in oneDNN's layout, and has it reordered on the first call.

    oneDNN picks the layout for an image size and a number of threads. Sizes share one form, that of the first: another
    size is right too, and at worst reorders once more in the call.
    """
    padding = [min(problem.padding[:2]), min(problem.padding[2:])]
    top, bottom, left, right = problem.padding
    size = (
        problem.size[0] + top + bottom - 2 * padding[0],
        problem.size[1] + left + right - 2 * padding[1],
    )
    geometry: tuple[Any, ...] = (padding, problem.stride, problem.dilation, problem.groups)
    shape = [problem.batch, problem.in_channels, *size]
    name = ("onednn", *map(str, geometry), problem.threads)

    reordered: Any = torch.ops.aten.mkldnn_reorder_conv2d_weight.default

    def reorder(weight: Tensor) -> Tensor:
        form: Tensor = reordered(weight.to_mkldnn(), *geometry, shape)
        return form

    def form(weight: FrozenOperand) -> Tensor:
        found = weight.forms.get(name)
        packed: Tensor = weight.pack(name, reorder) if found is None else found
        return packed

    return form
