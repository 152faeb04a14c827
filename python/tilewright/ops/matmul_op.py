"""The matmul operations' arguments and schemas, and the shortest way to call them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tilewright.kernels.epilogue import NEEDS_PREACT
from tilewright.ops.library import Operation, any_requires_grad, is_grad_enabled, transforms_active


class MatmulArguments(NamedTuple):
    """What both operations take, in the order of their schema; `tilewright.matmul` says what it means."""

    a: Tensor
    b: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "none"
    out_dtype: torch.dtype | None = None


_SCHEMA = (
    "(Tensor a, Tensor b, Tensor? bias=None, Tensor? residual=None, "
    'str activation="none", ScalarType? out_dtype=None) -> '
)

MATMUL = Operation(f"matmul{_SCHEMA}Tensor", MatmulArguments)
MATMUL_WITH_PREACT = Operation(f"matmul_with_preact{_SCHEMA}(Tensor, Tensor)", MatmulArguments)
"""Also returns the pre-activation, which the gradients of gelu and silu need."""


def call(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The product, with gradients, functorch and forward-mode AD seen to; arguments are checked where they run."""
    if transforms_active():
        y: Tensor = MATMUL.decompose(MatmulArguments(a, b, bias, residual, activation, out_dtype))
        return y
    gradients = is_grad_enabled() and any_requires_grad(a, b, bias, residual)
    args: tuple[object, ...]
    if out_dtype is not None:
        args = (a, b, bias, residual, activation, out_dtype)
    elif activation != "none" or residual is not None:
        args = (a, b, bias, residual, activation)
    elif bias is not None:
        args = (a, b, bias)
    else:
        args = (a, b)
    if gradients and activation in NEEDS_PREACT:
        y, _ = MATMUL_WITH_PREACT.call(args, gradients)
    else:
        y = MATMUL.call(args, gradients)
    return y
