"""Gradients of conv2d: both convolutions by our own kernels, the activation's derivative in front.

The convolution and its two gradients are closed under differentiation: each is linear in both operands, and its
gradients are the other two. So gradients of gradients run our kernels too.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tilewright import settings
from tilewright.kernels.conv2d.problem import wants_channels_last
from tilewright.kernels.epilogue import NEEDS_PREACT, activate_backward
from tilewright.ops.conv2d_op import (
    Conv2dArguments,
    InputGradientArguments,
    WeightGradientArguments,
    call,
    input_gradient,
    weight_gradient,
)


def setup_context(ctx: Any, given: Conv2dArguments, output: Tensor) -> None:
    _save(ctx, given, output, None)


def setup_context_with_preact(ctx: Any, given: Conv2dArguments, output: tuple[Tensor, Tensor]) -> None:
    _save(ctx, given, *output)


def _save(ctx: Any, given: Conv2dArguments, y: Tensor, z: Tensor | None) -> None:
    x, weight, bias, residual, activation, *_ = given
    needs_x, needs_weight, *_ = ctx.needs_input_grad
    # Without a kept pre-activation (a direct call of the operation) backward computes it again.
    recompute = activation in NEEDS_PREACT and z is None
    saved = y if activation == "relu" else z if activation in NEEDS_PREACT else None
    ctx.save_for_backward(
        x if needs_weight or recompute else None,
        weight if needs_x or recompute else None,
        saved,
        bias if recompute else None,
        residual if recompute else None,
    )
    ctx.activation, ctx.recompute, ctx.geometry = activation, recompute, given.geometry
    # A gradient is laid out as what it is the gradient of: optimizers and accumulation expect it so.
    ctx.x_meta = x.shape[2:], needs_x and wants_channels_last(x)
    ctx.weight_meta = weight.shape[2:], needs_weight and wants_channels_last(weight)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.residual_meta = None if residual is None else (residual.shape, residual.dtype)
    # Backward may run in a thread of autograd's own, which sees none of this thread's context variables.
    ctx.options = settings.current()
    ctx.set_materialize_grads(False)


def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    return backward_with_preact(ctx, grad, None)


def backward_with_preact(ctx: Any, grad_y: Tensor | None, grad_z: Tensor | None) -> tuple[Tensor | None, ...]:
    with settings.applied(ctx.options):
        return _gradients(ctx, grad_y, grad_z)


def _gradients(ctx: Any, grad_y: Tensor | None, grad_z: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, saved, bias, residual = ctx.saved_tensors
    grad = None
    if grad_y is not None:
        if ctx.recompute:
            saved = call(x, weight, bias, residual, "none", *ctx.geometry)
        grad = activate_backward(grad_y, saved, ctx.activation)
    if grad_z is not None:
        grad = grad_z if grad is None else grad + grad_z
    if grad is None:
        return None, None, None, None
    needs_x, needs_weight, needs_bias, needs_residual = ctx.needs_input_grad[:4]
    size, x_last = ctx.x_meta
    kernel, weight_last = ctx.weight_meta
    grad_x = input_gradient(grad, weight, size, ctx.geometry, x_last) if needs_x else None
    grad_weight = weight_gradient(grad, x, kernel, ctx.geometry, weight_last) if needs_weight else None
    grad_bias = None
    if needs_bias:
        # Summed in fp32 (torch does so for 16-bit sums too) and rounded once.
        grad_bias = grad.sum((0, 2, 3)).to(ctx.bias_dtype)
    grad_residual = None
    if needs_residual:
        shape, dtype = ctx.residual_meta
        grad_residual = (grad if grad.shape == shape else grad.sum_to_size(shape)).to(dtype)
    return grad_x, grad_weight, grad_bias, grad_residual


def setup_gradient_context(
    ctx: Any, given: InputGradientArguments | WeightGradientArguments, output: Tensor
) -> None:
    grad, other, sides, *_ = given
    needs_grad, needs_other, *_ = ctx.needs_input_grad
    ctx.save_for_backward(grad if needs_other else None, other if needs_grad else None)
    ctx.geometry, ctx.sides, ctx.other_sides = given.geometry, sides, other.shape[2:]
    ctx.other_last = needs_other and wants_channels_last(other)
    ctx.options = settings.current()


def backward_of_input_gradient(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    """dx(dy, w) is the adjoint of y(x, w) in x: its own, at a tangent v of x, is y(v, w)."""
    grad, weight = ctx.saved_tensors
    needs_grad, needs_weight, *_ = ctx.needs_input_grad
    with settings.applied(ctx.options):
        grad_grad = call(v, weight, None, None, "none", *ctx.geometry) if needs_grad else None
        grad_weight = None
        if needs_weight:
            grad_weight = weight_gradient(grad, v, ctx.other_sides, ctx.geometry, ctx.other_last)
    return grad_grad, grad_weight


def backward_of_weight_gradient(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    """dw(dy, x) is the adjoint of y(x, w) in w: its own, at a tangent u of w, is y(x, u)."""
    grad, x = ctx.saved_tensors
    needs_grad, needs_x, *_ = ctx.needs_input_grad
    with settings.applied(ctx.options):
        grad_grad = call(x, u, None, None, "none", *ctx.geometry) if needs_grad else None
        grad_x = None
        if needs_x:
            grad_x = input_gradient(grad, u, ctx.other_sides, ctx.geometry, ctx.other_last)
    return grad_grad, grad_x
