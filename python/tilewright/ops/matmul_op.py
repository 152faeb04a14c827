"""The schemas of the matmul operations, and the shortest way to call them."""

from __future__ import annotations

import torch
from torch import Tensor

from tilewright.kernels.epilogue import NEEDS_PREACT
from tilewright.ops import library

_SCHEMA = (
    "(Tensor a, Tensor b, Tensor? bias=None, Tensor? residual=None, *, "
    'str activation="none", ScalarType? out_dtype=None) -> '
)

OP = library.define(f"matmul{_SCHEMA}Tensor")
OP_WITH_PREACT = library.define(f"matmul_with_preact{_SCHEMA}(Tensor, Tensor)")
"""Also returns the pre-activation, which the gradients of gelu and silu need."""

# Bound once, as in library.py: these are on every call's way.
_is_grad_enabled = torch.is_grad_enabled
_is_inference = torch.is_inference_mode_enabled
_is_compiling = torch.compiler.is_compiling
_below_autograd = torch._C._AutoDispatchBelowAutograd


def call(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    out_dtype: torch.dtype | None,
) -> Tensor:
    if _is_grad_enabled() and library.any_requires_grad(a, b, bias, residual):
        if activation in NEEDS_PREACT:
            y: Tensor = OP_WITH_PREACT(a, b, bias, residual, activation=activation, out_dtype=out_dtype)[0]
            return y
        return _call_op(a, b, bias, residual, activation, out_dtype)
    if _is_compiling() or _is_inference():
        return _call_op(a, b, bias, residual, activation, out_dtype)
    # No gradient is wanted: past the autograd key, which alone costs 3 µs.
    with _below_autograd():
        return _call_op(a, b, bias, residual, activation, out_dtype)


def _call_op(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    out_dtype: torch.dtype | None,
) -> Tensor:
    """The operation with the fewest arguments that say the same: each one costs the dispatcher 0.2 µs."""
    y: Tensor
    if out_dtype is not None:
        y = OP(a, b, bias, residual, activation=activation, out_dtype=out_dtype)
    elif activation != "none":
        if residual is None:
            y = OP(a, b, bias, activation=activation)
        else:
            y = OP(a, b, bias, residual, activation=activation)
    elif residual is not None:
        y = OP(a, b, bias, residual)
    elif bias is not None:
        y = OP(a, b, bias)
    else:
        y = OP(a, b)
    return y
