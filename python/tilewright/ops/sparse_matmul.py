"""sparse_matmul: the public function, and what the operations behind it are to torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentError
from tilewright.kernels.sparse_matmul.formats import BUFFERS
from tilewright.ops import checks, library
from tilewright.ops.sparse_matmul_autograd import (
    backward_of,
    cast_values,
    decompose_with_preact,
    setup_context,
    setup_context_with_preact,
)
from tilewright.ops.sparse_matmul_checks import check
from tilewright.ops.sparse_matmul_kernels import cpu_kernel, cuda_kernel
from tilewright.ops.sparse_matmul_op import PLAIN, WITH_PREACT, Given, call, format_of

if TYPE_CHECKING:
    from tilewright.sparse import SparseWeight

# --- what the operations are to torch ------------------------------------------------------------------------


def _decompose(given: Given) -> Tensor:
    return decompose_with_preact(given)[0].contiguous()


def _fake(given: Given) -> Tensor:
    return torch.empty(check(given), dtype=given.x.dtype, device=given.x.device)


def _fake_with_preact(given: Given) -> tuple[Tensor, Tensor]:
    y = _fake(given)
    return y, torch.empty_like(y)


def _autocast(device_type: str, given: Given) -> Given:
    # Bias and residual stay as they are: the kernels add them in fp32 whatever their dtype.
    return cast_values(format_of(given), given, lambda t: library.autocast_operand(t, device_type))


def _flops(given: Given) -> int:
    """2·M for each stored value."""
    count = 2 * given.values.numel()
    for size in given.x.shape[:-1]:
        count *= size
    return count


for _form in BUFFERS:
    _shared: dict[str, Any] = {"autocast": _autocast, "backward": backward_of(_form), "flops": _flops}
    PLAIN[_form].implement(
        cpu=cpu_kernel(_form, keep_preact=False),
        cuda=cuda_kernel(_form, keep_preact=False),
        fake=_fake,
        decomposition=_decompose,
        setup_context=setup_context,
        **_shared,
    )
    WITH_PREACT[_form].implement(
        cpu=cpu_kernel(_form, keep_preact=True),
        cuda=cuda_kernel(_form, keep_preact=True),
        fake=_fake_with_preact,
        decomposition=decompose_with_preact,
        setup_context=setup_context_with_preact,
        **_shared,
    )


# --- the public function ---------------------------------------------------------------------------------------


def sparse_matmul(
    x: Tensor,
    weight: SparseWeight,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """A layer with a sparse weight: ``y = act(x·Wᵀ + bias + residual)``, as `tilewright.linear` with a dense one.

    Args:
        x: (..., K); any strides; float32, bfloat16 or float16 (float64 goes through torch).
        weight: W (N, K) as `tilewright.sparse.compress` makes it, of x's dtype.
        bias: (N,). Any of the three kernel dtypes.
        activation: ``"none"``, ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"`` or ``"silu"``.
        residual: (..., N) or a shape that broadcasts to it; added before the activation.

    Returns:
        (..., N), a new contiguous tensor of x's dtype.

    Products are accumulated and the epilogue computed in fp32, and rounded once. A structural zero, a position that
    the weight does not store, contributes nothing, whatever it meets: NaN in x reaches only what depends on it (see
    ``kernels/sparse_matmul/README.md``, also for the error bound). A dense product is among the candidates.

    Differentiable to any order with respect to x, bias, residual and the weight's values; the gradient of the values is
    that of the dense weight at the stored positions. Under functorch transforms and forward-mode AD a dense product
    runs. Under autocast x and the values are cast to the autocast dtype.

    The weight's buffers are read and checked once, and packed for the kernel that runs, for as long as torch counts no
    write to them (`tilewright.ops.sparse_operands` says what that misses).

    Raises:
        ArgumentError, ShapeError, DtypeError, LayoutError, DeviceError, FormatError: before anything runs.
    """
    buffers = getattr(weight, "buffers", None)
    if getattr(weight, "format", None) not in BUFFERS or not isinstance(buffers, tuple):
        raise ArgumentError(
            f"sparse_matmul: weight is of type {type(weight).__name__}; expected a tilewright.sparse.SparseWeight; "
            "tilewright.sparse.compress(weight, format) makes one"
        )
    checks.check_tensor("sparse_matmul", "x", x)
    n, k = weight.shape
    if x.ndim == 0 or x.shape[-1] != k:
        checks.shape_error(
            "sparse_matmul", "x", x.shape, f"(..., {k}) to match the weight ({n}, {k})", "reshape it"
        )
    return call(weight.format, x, buffers, n, bias, residual, activation)
