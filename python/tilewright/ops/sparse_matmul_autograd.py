"""Gradients of sparse_matmul: x's through the dense weight, the values' sampled at the kept positions.

Both products run on our own dense matmul. Positions are integers and have no gradient: what was pruned stays so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tilewright import settings
from tilewright.kernels.epilogue import NEEDS_PREACT, activate_backward
from tilewright.kernels.sparse_matmul.formats import BUFFERS, dense_of, sample, values_of
from tilewright.ops.matmul_op import call as multiply
from tilewright.ops.sparse_matmul_op import ARGUMENTS, Given, buffers_of, call, format_of, out_features


def setup_context(ctx: Any, given: Given, output: Tensor) -> None:
    _save(ctx, given, output, None)


def setup_context_with_preact(ctx: Any, given: Given, output: tuple[Tensor, Tensor]) -> None:
    _save(ctx, given, *output)


def _save(ctx: Any, given: Given, y: Tensor, z: Tensor | None) -> None:
    form, activation = format_of(given), given.activation
    # Without a kept pre-activation (a direct call of the operation) backward computes it again.
    recompute = activation in NEEDS_PREACT and z is None
    saved = y if activation == "relu" else z if activation in NEEDS_PREACT else None
    bias, residual = given.bias, given.residual
    ctx.save_for_backward(
        given.x,
        saved,
        bias if recompute else None,
        residual if recompute else None,
        *buffers_of(given),
    )
    ctx.format, ctx.sizes = form, (out_features(given), given.x.shape[-1])
    ctx.activation, ctx.recompute = activation, recompute
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.residual_meta = None if residual is None else (residual.shape, residual.dtype)
    # Backward may run in a thread of autograd's own, which sees none of this thread's context variables.
    ctx.options = settings.current()
    ctx.set_materialize_grads(False)


def backward_of(form: str) -> Callable[..., tuple[Tensor | None, ...]]:
    """The backward of the operation of a format: (ctx, gradient of y, and of the pre-activation if it was kept)."""
    fields = ARGUMENTS[form]._fields
    needs = {name: fields.index(name) for name in ("x", "values", "bias", "residual")}

    def backward(ctx: Any, grad_y: Tensor | None, grad_z: Tensor | None = None) -> tuple[Tensor | None, ...]:
        with settings.applied(ctx.options):
            grad = _through_activation(ctx, grad_y, grad_z)
            if grad is None:
                return (None,) * len(fields)
            wanted = {name for name, at in needs.items() if ctx.needs_input_grad[at]}
            found = _gradients(ctx, grad, wanted)
            return tuple(found.get(name) for name in fields)

    return backward


def _through_activation(ctx: Any, grad_y: Tensor | None, grad_z: Tensor | None) -> Tensor | None:
    x, saved, bias, residual, *buffers = ctx.saved_tensors
    grad = None
    if grad_y is not None:
        if ctx.recompute:
            saved = call(ctx.format, x, buffers, ctx.sizes[0], bias, residual)
        grad = activate_backward(grad_y, saved, ctx.activation)
    if grad_z is not None:
        grad = grad_z if grad is None else grad + grad_z
    return grad


def _gradients(ctx: Any, grad: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    x, _, _, _, *buffers = ctx.saved_tensors
    (n, k), found = ctx.sizes, {}
    rows = math.prod(x.shape[:-1])
    flat = grad.reshape(rows, n)
    if "x" in wanted:
        found["x"] = multiply(flat, dense_of(ctx.format, buffers, n, k)).view(x.shape)
    if "values" in wanted:
        whole = multiply(flat.mT, x.reshape(rows, k))
        found["values"] = sample(ctx.format, buffers, n, k, whole)
    if "bias" in wanted:
        # Summed in fp32 (torch does so for 16-bit sums too) and rounded once.
        found["bias"] = flat.sum(0).to(ctx.bias_dtype)
    if "residual" in wanted:
        shape, dtype = ctx.residual_meta
        found["residual"] = (grad if grad.shape == shape else grad.sum_to_size(shape)).to(dtype)
    return found


def decompose_with_preact(given: Given) -> tuple[Tensor, Tensor]:
    """(y, z) by ATen operators alone, as a product with the dense weight: differentiable to any order.

    NaN and infinities of x do meet structural zeros here: ATen has no product that is differentiable and skips them.
    """
    from tilewright.kernels.epilogue import activate

    form, x = format_of(given), given.x
    z = torch.matmul(x, dense_of(form, buffers_of(given), out_features(given), x.shape[-1]).mT)
    for addend in (given.bias, given.residual):
        z = z if addend is None else z + addend
    y = activate(z, given.activation).to(x.dtype)
    z = z.to(x.dtype)
    return y, z.clone() if z is y else z


def cast_values(form: str, given: Given, cast: Callable[[Tensor], Tensor]) -> Given:
    """For autocast: x and the values cast, everything else as it is."""
    assert "values" in BUFFERS[form]
    changed: Any = given
    result: Given = changed._replace(x=cast(given.x), values=cast(values_of(form, buffers_of(given))))
    return result
