"""Gradients of matmul: both products by our own kernels, the activation's derivative in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright import settings
from tilewright.kernels.epilogue import NEEDS_PREACT, activate_backward
from tilewright.ops.matmul_op import MatmulArguments, call


def setup_context(ctx: Any, given: MatmulArguments, output: Tensor) -> None:
    _save(ctx, given, output, None)


def setup_context_with_preact(ctx: Any, given: MatmulArguments, output: tuple[Tensor, Tensor]) -> None:
    _save(ctx, given, *output)


def _save(ctx: Any, given: MatmulArguments, y: Tensor, z: Tensor | None) -> None:
    a, b, bias, residual, activation, out_dtype = given
    needs_a, needs_b, *_ = ctx.needs_input_grad
    # Without a kept pre-activation (a direct call of the operation) backward computes it again.
    recompute = activation in NEEDS_PREACT and z is None
    saved = y if activation == "relu" else z if activation in NEEDS_PREACT else None
    ctx.save_for_backward(
        a if needs_b or recompute else None,
        b if needs_a or recompute else None,
        saved,
        bias if recompute else None,
        residual if recompute else None,
    )
    ctx.activation, ctx.out_dtype, ctx.recompute = activation, out_dtype, recompute
    # A gradient is laid out as what it is the gradient of: optimizers and accumulation expect it so, and would copy it.
    ctx.a_meta = a.shape, a.dtype, needs_a and _by_columns(a)
    ctx.b_meta = b.shape, b.dtype, needs_b and _by_columns(b)
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
    a, b, saved, bias, residual = ctx.saved_tensors
    grad = None
    if grad_y is not None:
        if ctx.recompute:
            saved = call(a, b, bias, residual, out_dtype=ctx.out_dtype)
        grad = activate_backward(grad_y, saved, ctx.activation)
    if grad_z is not None:
        grad = grad_z if grad is None else grad + grad_z
    if grad is None:
        return None, None, None, None
    needs_a, needs_b, needs_bias, needs_residual = ctx.needs_input_grad[:4]
    grad_a = _grad_a(grad, b, *ctx.a_meta) if needs_a else None
    grad_b = _grad_b(grad, a, *ctx.b_meta) if needs_b else None
    grad_bias = None
    if needs_bias:
        # Summed in fp32 (torch does so for 16-bit sums too) and rounded once.
        vector_b = len(ctx.b_meta[0]) == 1
        summed = list(range(grad.ndim if vector_b else grad.ndim - 1))
        grad_bias = (grad.sum(summed) if summed else grad).to(ctx.bias_dtype)
        grad_bias = grad_bias.reshape(1) if vector_b else grad_bias
    grad_residual = None
    if needs_residual:
        shape, dtype = ctx.residual_meta
        grad_residual = grad if grad.shape == shape else grad.sum_to_size(shape)
        grad_residual = grad_residual.to(dtype)
    return grad_a, grad_b, grad_bias, grad_residual


def _by_columns(matrix: Tensor) -> bool:
    """Whether columns are what is contiguous, as of linear's weight, transposed."""
    return matrix.ndim > 1 and matrix.stride(-2) == 1 and matrix.stride(-1) != 1


def _grad_a(grad: Tensor, b: Tensor, shape: Sequence[int], dtype: torch.dtype, by_columns: bool) -> Tensor:
    """grad · Bᵀ, summed over what A was broadcast along."""
    if b.ndim == 1:
        grad, b = grad.unsqueeze(-1), b.unsqueeze(-1)
    if len(shape) == 1:
        grad = grad.unsqueeze(-2)
    product = _product(b, grad.mT, dtype).mT if by_columns else _product(grad, b.mT, dtype)
    if product.shape == shape:
        return product
    return product.sum_to_size((1, *shape) if len(shape) == 1 else shape).reshape(shape)


def _grad_b(grad: Tensor, a: Tensor, shape: Sequence[int], dtype: torch.dtype, by_columns: bool) -> Tensor:
    """Aᵀ · grad, summed over what B was broadcast along."""
    if len(shape) == 1:
        grad = grad.unsqueeze(-1)
    if a.ndim == 1:
        grad, a = grad.unsqueeze(-2), a.unsqueeze(0)
    if len(shape) <= 2 and a.ndim > 2:
        # One B under a batch of A: the sum over the batch is part of the product, not a second pass.
        a, grad = a.flatten(0, -2), grad.flatten(0, -2)
    product = _product(grad.mT, a, dtype).mT if by_columns else _product(a.mT, grad, dtype)
    if product.shape == shape:
        return product
    return product.sum_to_size((*shape, 1) if len(shape) == 1 else shape).reshape(shape)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    if a.dtype == b.dtype == dtype:
        return call(a, b)
    wide = torch.promote_types(a.dtype, b.dtype)
    return call(a.to(wide), b.to(wide), out_dtype=dtype if dtype != wide else None)
