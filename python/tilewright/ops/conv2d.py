"""conv2d and conv2d_relu: the public functions, and what the operations behind them are to torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import Error
from tilewright.kernels.conv2d.problem import wants_channels_last
from tilewright.kernels.epilogue import activate
from tilewright.ops import library
from tilewright.ops.conv2d_arguments import (
    check_unbatched_residual,
    conv2d_arguments,
    geometry_of,
    refusal_of,
)
from tilewright.ops.conv2d_autograd import (
    backward,
    backward_of_input_gradient,
    backward_of_weight_gradient,
    backward_with_preact,
    setup_context,
    setup_context_with_preact,
    setup_gradient_context,
)
from tilewright.ops.conv2d_checks import check, check_input_gradient, check_weight_gradient
from tilewright.ops.conv2d_kernels import forward_kernel, gradient_kernel, make_problem
from tilewright.ops.conv2d_lowering import lowered
from tilewright.ops.conv2d_op import (
    CONV2D,
    CONV2D_WITH_PREACT,
    INPUT_GRADIENT,
    WEIGHT_GRADIENT,
    Conv2dArguments,
    InputGradientArguments,
    WeightGradientArguments,
    call,
)

# --- what the operations are to torch ------------------------------------------------------------------------


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _laid_out(tensor: Tensor, channels_last: bool) -> Tensor:
    # Under transforms the strides are torch's to choose, and vmap knows no channels_last.
    if library.transforms_active():
        return tensor
    return tensor.contiguous(memory_format=_memory_format(channels_last))


def _symmetric(padding: Sequence[int]) -> tuple[list[int], list[int]]:
    """What torch's convolution pads on both sides alike, and the rest: left, right, top, bottom."""
    top, bottom, left, right = padding
    rows, columns = min(top, bottom), min(left, right)
    return [rows, columns], [left - columns, right - columns, top - rows, bottom - rows]


def _decompose_with_preact(given: Conv2dArguments) -> tuple[Tensor, Tensor]:
    """(y, z) by ATen operators alone: differentiable to any order, forward and backward, and under functorch."""
    x, weight, bias, residual, activation, stride, padding, dilation, groups = given
    last = wants_channels_last(x, weight)
    both, rest = _symmetric(padding)
    padded = torch.constant_pad_nd(x, rest) if any(rest) else x
    fused = bias if bias is not None and bias.dtype == x.dtype else None
    z = torch.conv2d(padded, weight, fused, stride, both, dilation, groups)
    if bias is not None and fused is None:
        z = z + bias.view(-1, 1, 1)
    if residual is not None:
        z = z + residual
    y = _laid_out(activate(z, activation).to(x.dtype), last)
    z = _laid_out(z.to(x.dtype), last)
    return y, z.clone() if z is y else z


def _decompose(given: Conv2dArguments) -> Tensor:
    return _decompose_with_preact(given)[0]


def _decompose_input_gradient(given: InputGradientArguments) -> Tensor:
    grad, weight, (height, width), stride, padding, dilation, groups, last = given
    both, (left, right, top, bottom) = _symmetric(padding)
    padded = (grad.shape[0], weight.shape[1] * groups, height + top + bottom, width + left + right)
    # Only its shape is read.
    x = grad.new_empty(padded)
    rest = (None, stride, both, dilation, False, [0, 0], groups, [True, False, False])
    found: Tensor = torch.ops.aten.convolution_backward.default(grad, x, weight, *rest)[0]
    return _laid_out(found[:, :, top : top + height, left : left + width], last)


def _decompose_weight_gradient(given: WeightGradientArguments) -> Tensor:
    grad, x, kernel, stride, padding, dilation, groups, last = given
    both, rest = _symmetric(padding)
    padded = torch.constant_pad_nd(x, rest) if any(rest) else x
    weight = grad.new_empty((grad.shape[1], x.shape[1] // groups, *kernel))
    walk = (None, stride, both, dilation, False, [0, 0], groups, [False, True, False])
    found: Tensor = torch.ops.aten.convolution_backward.default(grad, padded, weight, *walk)[1]
    return _laid_out(found, last)


def _empty(like: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=_memory_format(channels_last)
    )


def _fake(given: Conv2dArguments) -> Tensor:
    shape = check(given)
    return _empty(given.x, shape, wants_channels_last(given.x, given.weight))


def _fake_with_preact(given: Conv2dArguments) -> tuple[Tensor, Tensor]:
    y = _fake(given)
    return y, torch.empty_like(y)


def _fake_input_gradient(given: InputGradientArguments) -> Tensor:
    return _empty(given.grad, check_input_gradient(given), given.channels_last)


def _fake_weight_gradient(given: WeightGradientArguments) -> Tensor:
    return _empty(given.grad, check_weight_gradient(given), given.channels_last)


def _autocast(device_type: str, given: Conv2dArguments) -> Conv2dArguments:
    # Bias and residual stay as they are: the kernels add them in fp32 whatever their dtype.
    x, weight = (library.autocast_operand(operand, device_type) for operand in given[:2])
    return given._replace(x=x, weight=weight)


def _autocast_gradient(device_type: str, given: Any) -> Any:
    # The forward pass has cast what is saved: gradients are of its dtype.
    return given


def _product(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def _flops(given: Conv2dArguments) -> int:
    """2·N·K·P·Q·(C/groups)·R·S, terms in the padding included."""
    return 2 * _product(check(given)) * _product(given.weight.shape[1:])


def _flops_of_input_gradient(given: InputGradientArguments) -> int:
    return 2 * _product(given.grad.shape) * _product(given.weight.shape[1:])


def _flops_of_weight_gradient(given: WeightGradientArguments) -> int:
    return 2 * _product(given.grad.shape) * (given.x.shape[1] // given.groups) * _product(given.kernel)


CONV2D.implement(
    cpu=forward_kernel(keep_preact=False, on_cpu=True),
    cuda=forward_kernel(keep_preact=False, on_cpu=False),
    fake=_fake,
    decomposition=_decompose,
    autocast=_autocast,
    setup_context=setup_context,
    backward=backward,
    flops=_flops,
)
CONV2D_WITH_PREACT.implement(
    cpu=forward_kernel(keep_preact=True, on_cpu=True),
    cuda=forward_kernel(keep_preact=True, on_cpu=False),
    fake=_fake_with_preact,
    decomposition=_decompose_with_preact,
    autocast=_autocast,
    setup_context=setup_context_with_preact,
    backward=backward_with_preact,
    flops=_flops,
)
INPUT_GRADIENT.implement(
    cpu=gradient_kernel(of_weight=False, on_cpu=True),
    cuda=gradient_kernel(of_weight=False, on_cpu=False),
    fake=_fake_input_gradient,
    decomposition=_decompose_input_gradient,
    autocast=_autocast_gradient,
    setup_context=setup_gradient_context,
    backward=backward_of_input_gradient,
    flops=_flops_of_input_gradient,
)
WEIGHT_GRADIENT.implement(
    cpu=gradient_kernel(of_weight=True, on_cpu=True),
    cuda=gradient_kernel(of_weight=True, on_cpu=False),
    fake=_fake_weight_gradient,
    decomposition=_decompose_weight_gradient,
    autocast=_autocast_gradient,
    setup_context=setup_gradient_context,
    backward=backward_of_weight_gradient,
    flops=_flops_of_weight_gradient,
)


# --- the public functions ----------------------------------------------------------------------------------


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """2-D convolution with a fused epilogue: ``y = act(conv(x, weight) + bias + residual)``.

    Args:
        x: (N, C, H, W) or (C, H, W); any strides; float32, bfloat16 or float16. float64 and (on CPUs) integers are
            taken too and go through torch's own kernels.
        weight: (K, C / groups, R, S), of x's dtype.
        bias: (K,), added to every pixel. Any of the three kernel dtypes.
        stride, dilation: an integer, or a pair for height and width.
        padding: zeros around the image: an integer, a pair (both sides of the height, of the width), ``"valid"`` for
            none, or ``"same"`` for an output of the image's size (stride 1 only; of an odd number of rows or columns
            one more goes to the bottom or right).
        groups: output channel k sees the input channels of its own group only.
        activation: ``"none"``, ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"`` or ``"silu"``.
        residual: the output's shape or one that broadcasts to it; added before the activation.

    Returns:
        A new (N, K, P, Q) or (K, P, Q), as `torch.nn.functional.conv2d`: channels_last if x or weight is, else
        contiguous. ``P = floor((H + 2·padding - dilation·(R - 1) - 1) / stride) + 1``, and Q likewise.

    Products are accumulated and the epilogue computed in fp32, and rounded once, when y is stored; the error bound
    is in ``kernels/bound.py``. fp32 operands use tf32 matrix units only where
    ``torch.backends.cudnn.conv.fp32_precision`` (torch's default admits them) or ``tilewright.options`` does; on CPUs
    ``tilewright.options(precision="tf32")`` admits Winograd's algorithm. A window of 1x1 that steps over every pixel
    runs as a `tilewright.matmul` where the memory layout makes it one.

    Differentiable to any order; under functorch transforms and forward-mode AD the ATen decomposition runs.
    Under autocast x and weight are cast to the autocast dtype.

    Raises:
        ArgumentError, ShapeError, DtypeError, LayoutError, DeviceError: before anything runs.
    """
    try:
        return _convolve("conv2d", x, weight, bias, residual, activation, stride, padding, dilation, groups)
    except (Error, AttributeError, TypeError, RuntimeError) as error:
        others = (activation, stride, padding, dilation, groups)
        refusal = refusal_of(error, "conv2d", x, weight, bias, residual, *others)
        if refusal is None:
            raise
        raise refusal from None


def conv2d_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    residual: Tensor | None = None,
) -> Tensor:
    """``relu(conv(x, weight) + bias + residual)``: `tilewright.conv2d` with that activation."""
    try:
        return _convolve("conv2d_relu", x, weight, bias, residual, "relu", stride, padding, dilation, groups)
    except (Error, AttributeError, TypeError, RuntimeError) as error:
        others = ("relu", stride, padding, dilation, groups)
        refusal = refusal_of(error, "conv2d_relu", x, weight, bias, residual, *others)
        if refusal is None:
            raise
        raise refusal from None


def _convolve(
    operation: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> Tensor:
    stride, padding, dilation, groups = geometry_of(operation, weight, stride, padding, dilation, groups)
    if x.ndim == 3:
        check_unbatched_residual(operation, residual)
        y = call(x.unsqueeze(0), weight, bias, residual, activation, stride, padding, dilation, groups)
        return y.squeeze(0)
    return call(x, weight, bias, residual, activation, stride, padding, dilation, groups)


def posed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    activation: str = "none",
    residual: Tensor | None = None,
    frozen: bool = False,
) -> tuple[str, Any]:
    """(kernel folder, problem) of a call of `conv2d`, matmul's where it is lowered; `frozen`, of a packed weight."""
    given = conv2d_arguments(
        "conv2d", x, weight, bias, residual, activation, stride, padding, dilation, groups
    )
    product = lowered(given)
    if product is not None and (product.weight_is_b or not frozen):
        return "matmul", product.problem(frozen=frozen)
    return "conv2d", make_problem(given, frozen_weight=frozen)
