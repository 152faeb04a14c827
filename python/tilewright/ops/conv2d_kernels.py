"""What runs conv2d and its gradients on CPUs and on CUDA devices: the call key, and on a miss problem and choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.kernels.interface import Launch
from tilewright.kernels.precision import cudnn_conv_precision
from tilewright.ops.conv2d_arguments import conv2d_arguments
from tilewright.ops.conv2d_checks import check, check_input_gradient, check_weight_gradient
from tilewright.ops.conv2d_lowering import (
    Lowered,
    lowered,
    lowered_input_gradient,
    lowered_weight_gradient,
)
from tilewright.ops.conv2d_op import (
    CONV2D,
    CONV2D_WITH_PREACT,
    INPUT_GRADIENT,
    WEIGHT_GRADIENT,
    Conv2dArguments,
    Geometry,
    InputGradientArguments,
    WeightGradientArguments,
)
from tilewright.ops.devices import cuda_surroundings, on_its_device


def make_problem(
    given: Conv2dArguments, *, keep_preact: bool = False, frozen_weight: bool = False
) -> Conv2dProblem:
    """Checks the arguments and describes the call under the options in force."""
    check(given)
    x, weight, bias, residual, activation, *_ = given
    return Conv2dProblem.from_tensors(
        x,
        weight,
        bias,
        residual,
        activation=activation,
        keep_preact=keep_preact,
        frozen_weight=frozen_weight,
        **_walk(given.geometry),
        **_circumstances(x),
    )


def make_input_gradient_problem(given: InputGradientArguments) -> Conv2dProblem:
    shape = check_input_gradient(given)
    return Conv2dProblem.from_tensors(
        torch.Size(shape),
        given.weight,
        grad=given.grad,
        channels_last=given.channels_last,
        **_walk(given.geometry),
        **_circumstances(given.grad),
    )


def make_weight_gradient_problem(given: WeightGradientArguments) -> Conv2dProblem:
    shape = check_weight_gradient(given)
    return Conv2dProblem.from_tensors(
        given.x,
        torch.Size(shape),
        grad=given.grad,
        channels_last=given.channels_last,
        **_walk(given.geometry),
        **_circumstances(given.grad),
    )


def posed_input_gradient(given: InputGradientArguments) -> tuple[str, Any]:
    """(kernel folder, problem) of a gradient of x: matmul's where it is lowered."""
    check_input_gradient(given)
    product = lowered_input_gradient(given)
    return (
        ("conv2d", make_input_gradient_problem(given)) if product is None else ("matmul", product.problem())
    )


def posed_weight_gradient(given: WeightGradientArguments) -> tuple[str, Any]:
    """The same of a gradient of the weight."""
    check_weight_gradient(given)
    product = lowered_weight_gradient(given)
    return (
        ("conv2d", make_weight_gradient_problem(given)) if product is None else ("matmul", product.problem())
    )


def _walk(geometry: Geometry) -> dict[str, Any]:
    stride, padding, dilation, groups = geometry
    return {
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
    }


def _circumstances(x: Tensor) -> dict[str, Any]:
    options, on_cpu = settings.current(), x.device.type == "cpu"
    # On CPUs it admits algorithms, whatever the operands' dtype; on GPUs matrix units that take fp32 operands.
    asked = x.dtype == torch.float32 or (on_cpu and x.dtype in KERNEL_DTYPES)
    return {
        "precision": fp32_precision(options, not on_cpu) if asked else "ieee",
        "deterministic": options.deterministic,
        "threads": torch.get_num_threads() if on_cpu else 0,
    }


def fp32_precision(options: settings.Options, on_cuda: bool) -> Any:
    """``ieee`` or ``tf32``: the user's option, else on CUDA devices torch's own setting."""
    if options.precision != "auto":
        return options.precision
    return cudnn_conv_precision() if on_cuda else "ieee"


_surroundings = cuda_surroundings(fp32_precision)


def forward_kernel(keep_preact: bool, on_cpu: bool) -> Callable[..., Any]:
    """What runs the operation; the dispatcher comes to the CPU's only when every tensor is there."""
    name = (CONV2D_WITH_PREACT if keep_preact else CONV2D).name
    lookup, current, num_threads = dispatch.lookup, settings.current, torch.get_num_threads

    def kernel(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        activation: str = "none",
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> Any:
        # Written out, and half of what a call of ours takes beside torch's dispatcher: every function call adds.
        key = (
            name,
            x.shape,
            x.stride(),
            x.dtype,
            weight.shape,
            weight.stride(),
            # Of other dtypes than x is refused, but not before it is looked at.
            weight.dtype,
            # A bias of other than one dimension has as many strides, and is never found: the checks refuse it.
            None if bias is None else (bias.numel(), bias.stride(), bias.dtype),
            None if residual is None else (residual.shape, residual.stride(), residual.dtype),
            activation,
            tuple(stride),
            tuple(padding),
            tuple(dilation),
            groups,
            current().key,
            num_threads() if on_cpu else _surroundings(x, weight, bias, residual),
        )
        launch = lookup(key)
        if launch is None:
            given = Conv2dArguments(x, weight, bias, residual, activation, stride, padding, dilation, groups)
            check(given)
            launch = _resolve(
                key, lowered(given), partial(make_problem, given, keep_preact=keep_preact), keep_preact
            )
        return launch(x, weight, bias, residual)

    return kernel if on_cpu else on_its_device(kernel)


def gradient_kernel(of_weight: bool, on_cpu: bool) -> Callable[..., Any]:
    """The same for the two gradients."""
    name = (WEIGHT_GRADIENT if of_weight else INPUT_GRADIENT).name
    arguments: Any = WeightGradientArguments if of_weight else InputGradientArguments
    verify: Any = check_weight_gradient if of_weight else check_input_gradient
    lower: Any = lowered_weight_gradient if of_weight else lowered_input_gradient
    pose: Any = make_weight_gradient_problem if of_weight else make_input_gradient_problem
    lookup, current, num_threads = dispatch.lookup, settings.current, torch.get_num_threads

    def kernel(
        grad: Tensor,
        other: Tensor,
        size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        channels_last: bool,
    ) -> Any:
        key = (
            name,
            grad.shape,
            grad.stride(),
            grad.dtype,
            other.shape,
            other.stride(),
            other.dtype,
            tuple(size),
            tuple(stride),
            tuple(padding),
            tuple(dilation),
            groups,
            channels_last,
            current().key,
            num_threads() if on_cpu else _surroundings(grad, other),
        )
        launch = lookup(key)
        if launch is None:
            given = arguments(grad, other, size, stride, padding, dilation, groups, channels_last)
            verify(given)
            launch = _resolve(key, lower(given), partial(pose, given))
        return launch(grad, other)

    return kernel if on_cpu else on_its_device(kernel)


def _resolve(
    key: Any, product: Lowered | None, pose: Callable[[], Conv2dProblem], keep_preact: bool = False
) -> Launch:
    """The kernel for a key that was not found: a convolution's, or that of the product that it amounts to."""
    if product is None:
        return dispatch.resolve("conv2d", key, pose)
    return dispatch.resolve("matmul", key, partial(product.problem, keep_preact=keep_preact), product.launch)


def conv2d_problem(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    activation: str = "none",
    residual: Tensor | None = None,
    frozen: bool = False,
) -> Conv2dProblem:
    """The problem that the convolution of the same arguments poses; `frozen`, the problem of a packed weight."""
    given = conv2d_arguments(
        "conv2d", x, weight, bias, residual, activation, stride, padding, dilation, groups
    )
    return make_problem(given, frozen_weight=frozen)
