"""matmul and linear: the public functions, and what the operations behind them are to torch."""

from __future__ import annotations

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
from tilewright.ops.matmul_checks import check, linear_refusal, matmul_refusal
from tilewright.ops.matmul_kernels import cpu_kernel, cuda_kernel
from tilewright.ops.matmul_op import MATMUL, MATMUL_WITH_PREACT, MatmulArguments, call

# --- what the operations are to torch ------------------------------------------------------------------------


def _decompose_with_preact(given: MatmulArguments) -> tuple[Tensor, Tensor]:
    """(y, z) by ATen operators alone: differentiable to any order, forward and backward, and under functorch."""
    a, b, bias, residual, activation, out_dtype = given
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


def _decompose(given: MatmulArguments) -> Tensor:
    return _decompose_with_preact(given)[0].contiguous()


def _fake(given: MatmulArguments) -> Tensor:
    return torch.empty(check(given), dtype=given.out_dtype or given.a.dtype, device=given.a.device)


def _fake_with_preact(given: MatmulArguments) -> tuple[Tensor, Tensor]:
    y = _fake(given)
    return y, torch.empty_like(y)


def _autocast(device_type: str, given: MatmulArguments) -> MatmulArguments:
    # Bias and residual stay as they are: the kernels add them in fp32 whatever their dtype.
    a, b = (library.autocast_operand(operand, device_type) for operand in given[:2])
    return given._replace(a=a, b=b)


def _flops(given: MatmulArguments) -> int:
    """2·M·N·K per matrix of the batch."""
    count = 2 * given.a.shape[-1]
    for size in output_shape(given.a.shape, given.b.shape):
        count *= size
    return count


MATMUL.implement(
    cpu=cpu_kernel(keep_preact=False),
    cuda=cuda_kernel(keep_preact=False),
    fake=_fake,
    decomposition=_decompose,
    autocast=_autocast,
    setup_context=setup_context,
    backward=backward,
    flops=_flops,
)
MATMUL_WITH_PREACT.implement(
    cpu=cpu_kernel(keep_preact=True),
    cuda=cuda_kernel(keep_preact=True),
    fake=_fake_with_preact,
    decomposition=_decompose_with_preact,
    autocast=_autocast,
    setup_context=setup_context_with_preact,
    backward=backward_with_preact,
    flops=_flops,
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
        return call(a, b, bias, residual, activation, out_dtype)
    except (AttributeError, TypeError, RuntimeError) as error:
        refusal = matmul_refusal(error, a, b, bias, residual)
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
        return call(x, weight.t(), bias, residual, activation)
    except (Error, AttributeError, TypeError, RuntimeError) as error:
        if _refuses_views(weight):
            return call(x, weight.mT, bias, residual, activation)
        refusal = linear_refusal(error, x, weight, bias, residual, activation)
        if refusal is None:
            raise
        raise refusal from None


def _refuses_views(weight: Tensor) -> bool:
    """Whether it may be a `DTensor` that was made outside of inference mode, and is used inside.

    torch 2.13 raises "Cannot set version_counter for inference tensor" for its views, but not for ``mT``.
    """
    return (
        torch.is_inference_mode_enabled()
        and isinstance(weight, Tensor)
        and hasattr(weight, "__tensor_flatten__")
        and weight.ndim == 2
        and not weight.is_inference()
    )
