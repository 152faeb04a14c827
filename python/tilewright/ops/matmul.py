"""matmul and linear: the public functions, and what the operations behind them are to torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import Error
from tilewright.kernels.epilogue import activate
from tilewright.kernels.matmul.problem import output_shape
from tilewright.ops import library
from tilewright.ops.matmul_autograd import (
    backward,
    backward_with_preact,
    setup_context,
    setup_context_with_preact,
)
from tilewright.ops.matmul_checks import check, linear_refusal, type_refusal
from tilewright.ops.matmul_kernels import cpu_kernel, cuda_kernel
from tilewright.ops.matmul_op import OP, OP_WITH_PREACT, call

# --- decomposition and fake --------------------------------------------------------------------------------


def decompose_with_preact(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """(y, z) by ATen operators alone: differentiable to any order, forward and backward, and under functorch."""
    result = out_dtype or a.dtype
    if result != a.dtype:
        # A 16-bit product would round away what the wider output can hold.
        a, b = a.float(), b.float()
    z = torch.matmul(a, b)
    if bias is not None:
        z = z + (bias.reshape(()) if b.ndim == 1 else bias)
    if residual is not None:
        z = z + residual
    y = activate(z, activation).to(result)
    z = z.to(result)
    return y, z.clone() if z is y else z


def decompose(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """y by ATen operators alone."""
    y = decompose_with_preact(a, b, bias, residual, activation=activation, out_dtype=out_dtype)[0]
    return y.contiguous()


def _decompose_checked(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    out_dtype: torch.dtype | None,
) -> Tensor:
    """The decomposition in place of the operation: same checks, same autocast."""
    device_type = a.device.type
    if torch.is_autocast_enabled(device_type):
        a, b = (_autocast_operand(operand, device_type) for operand in (a, b))
    check("matmul", a, b, bias, residual, activation, out_dtype)
    return decompose(a, b, bias, residual, activation=activation, out_dtype=out_dtype)


def _fake(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    out_shape = check("matmul", a, b, bias, residual, activation, out_dtype)
    return torch.empty(out_shape, dtype=out_dtype or a.dtype, device=a.device)


def _fake_with_preact(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    y = _fake(*args, **kwargs)
    return y, torch.empty_like(y)


# --- autocast ----------------------------------------------------------------------------------------------


def _autocast_operand(operand: Tensor, device_type: str) -> Tensor:
    casts = (
        operand.is_floating_point() and operand.dtype != torch.float64 and operand.device.type == device_type
    )
    return operand.to(torch.get_autocast_dtype(device_type)) if casts else operand


def _autocast(overload_name: str) -> Any:
    def autocast(device_type: str, a: Tensor, b: Tensor, *addends: Tensor | None, **keywords: Any) -> Any:
        # Bias and residual stay as they are: the kernels add them in fp32 whatever their dtype.
        overload = getattr(torch.ops.tilewright, overload_name).default
        return overload(
            _autocast_operand(a, device_type), _autocast_operand(b, device_type), *addends, **keywords
        )

    return autocast


# --- registration ------------------------------------------------------------------------------------------


def _flops(a: Sequence[int], b: Sequence[int]) -> int:
    """2·M·N·K per matrix of the batch."""
    count = 2 * a[-1]
    for size in output_shape(a, b):
        count *= size
    return count


library.implement(
    OP,
    kernels=(cpu_kernel(keep_preact=False), cuda_kernel(keep_preact=False)),
    fake=_fake,
    decomposition=decompose,
    autocast=_autocast("matmul"),
    setup_context=setup_context,
    backward=backward,
    flops=lambda a, b, *args, **kwargs: _flops(a.shape, b.shape),
)
library.implement(
    OP_WITH_PREACT,
    kernels=(cpu_kernel(keep_preact=True), cuda_kernel(keep_preact=True)),
    fake=_fake_with_preact,
    decomposition=decompose_with_preact,
    autocast=_autocast("matmul_with_preact"),
    setup_context=setup_context_with_preact,
    backward=backward_with_preact,
    flops=lambda a, b, *args, **kwargs: _flops(a.shape, b.shape),
)


# --- the public functions ----------------------------------------------------------------------------------


def matmul(
    a: Tensor,
    b: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Matrix product with a fused epilogue: ``y = act(a·b + bias + residual)``.

    Args:
        a: (..., M, K) or (K,); any strides; float32, bfloat16 or float16. float64 and (on CPUs) integers are
            taken too and go through torch's own kernels.
        b: (..., K, N) or (K,), of a's dtype; leading dimensions broadcast as in `torch.matmul`.
        bias: (N,), added to every row; (1,) where b is a vector. Any of the three kernel dtypes.
        residual: the output's shape or one that broadcasts to it; added before the activation.
        activation: ``"none"``, ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"`` or ``"silu"``.
        out_dtype: dtype of the result, float32, bfloat16 or float16; default a's.

    Returns:
        A new contiguous tensor of `torch.matmul`'s shape.

    Products are accumulated and the epilogue computed in fp32, and rounded once, when y is stored; per element,
    ``|error| <= max(2·e, c·u·(|a|·|b| + |bias| + |residual|))`` with u the output dtype's unit roundoff and e the
    error of torch's own product (see ``kernels/matmul/README.md``). fp32 operands use tf32 matrix units only
    where ``torch.backends.cuda.matmul.fp32_precision`` or ``tilewright.options`` admits them.

    Differentiable to any order; under functorch transforms and forward-mode AD the ATen decomposition runs.
    Under autocast a and b are cast to the autocast dtype.

    Raises:
        ArgumentError, ShapeError, DtypeError, LayoutError, DeviceError: before anything runs.
    """
    try:
        if library.transforms_active():
            return _decompose_checked(a, b, bias, residual, activation, out_dtype)
        return call(a, b, bias, residual, activation, out_dtype)
    except (AttributeError, TypeError, RuntimeError) as error:
        # torch's own complaint about an argument that is no tensor names neither it nor the remedy.
        refusal = None if isinstance(error, Error) else type_refusal(a, b, bias, residual)
        if refusal is None:
            raise
        raise refusal from None


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """A fully connected layer: ``y = act(x·weightᵀ + bias + residual)``, as `torch.nn.functional.linear`.

    Args:
        x: (..., in_features); any strides.
        weight: (out_features, in_features), of x's dtype.
        bias: (out_features,).
        activation: ``"none"``, ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"`` or ``"silu"``.
        residual: (..., out_features) or a shape that broadcasts to it; added before the activation.

    Returns:
        (..., out_features), contiguous, of x's dtype. Dtypes, precision, gradients, autocast and errors are
        those of `tilewright.matmul`.
    """
    try:
        b = weight.t()
        if library.transforms_active():
            return _decompose_checked(x, b, bias, residual, activation, None)
        return call(x, b, bias, residual, activation, None)
    except (Error, AttributeError, RuntimeError) as error:
        refusal = linear_refusal(x, weight, bias, residual, activation, error)
        if refusal is None:
            raise
        raise refusal from None
