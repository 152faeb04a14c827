"""matmul and linear: schema, checks, fake, gradients, autocast, FLOPs, and the decomposition into ATen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.errors import Error
from tilewright.kernels.epilogue import NEEDS_PREACT, activate, activate_backward
from tilewright.kernels.interface import Launch
from tilewright.kernels.matmul.problem import MatmulProblem, output_shape
from tilewright.ops import checks, library

_SCHEMA = (
    "(Tensor a, Tensor b, Tensor? bias=None, Tensor? residual=None, *, "
    'str activation="none", ScalarType? out_dtype=None) -> '
)


def check(
    operation: str,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    out_dtype: torch.dtype | None,
    *,
    names: tuple[str, str] = ("a", "b"),
) -> list[int]:
    """Raises on anything that the operation does not take; returns the output's shape. Runs nothing."""
    first, second = names
    tensors = ((first, a), (second, b), ("bias", bias), ("residual", residual))
    for name, tensor in tensors:
        if tensor is not None or name in names:
            checks.check_tensor(operation, name, tensor)
    checks.check_device(operation, first, a, tensors[1:])
    checks.check_operand_dtypes(operation, first, a, second, b)
    checks.check_activation(operation, activation, a.dtype)
    checks.check_out_dtype(operation, out_dtype, first, a)
    for name, operand in ((first, a), (second, b)):
        if operand.ndim == 0:
            checks.shape_error(
                operation, name, operand.shape, "at least one dimension", "multiply by a scalar with *"
            )
    k = a.shape[-1]
    if b.shape[-2 if b.ndim > 1 else 0] != k:
        expected = f"(K, N) with K = {k}" if b.ndim > 1 else f"({k},)"
        checks.shape_error(
            operation,
            second,
            b.shape,
            f"{expected} to match {first} {checks.shape_text(['...', k] if a.ndim > 1 else [k])}",
            f"transpose or reshape {second}",
        )
    try:
        out_shape = output_shape(a.shape, b.shape)
    except RuntimeError:
        checks.shape_error(
            operation,
            second,
            b.shape,
            f"leading dimensions that broadcast with {checks.shape_text(a.shape[:-2])} of {first}",
            f"expand or reshape {second}",
        )
    n = b.shape[-1] if b.ndim > 1 else 1
    if bias is not None:
        checks.check_addend_dtype(operation, "bias", bias, first, a)
        if bias.ndim != 1 or bias.shape[0] != n:
            checks.shape_error(
                operation,
                "bias",
                bias.shape,
                f"({n},), one value per column of {second}",
                "reshape it, or pass it as residual, which broadcasts",
            )
    if residual is not None:
        checks.check_addend_dtype(operation, "residual", residual, first, a)
        checks.check_residual(operation, residual, out_shape)
    return out_shape


# --- choosing and running ----------------------------------------------------------------------------------


def make_problem(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
    out_dtype: torch.dtype | None = None,
    keep_preact: bool = False,
) -> MatmulProblem:
    """Checks the arguments and describes the call under the options in force."""
    check("matmul", a, b, bias, residual, activation, out_dtype)
    options = settings.current()
    on_cpu = a.device.type == "cpu"
    return MatmulProblem.from_tensors(
        a,
        b,
        bias,
        residual,
        activation=activation,
        out_dtype=out_dtype,
        keep_preact=keep_preact,
        precision=dispatch.fp32_precision(options, not on_cpu) if a.dtype == torch.float32 else "ieee",
        deterministic=options.deterministic,
        threads=torch.get_num_threads() if on_cpu else 0,
    )


def _resolve(
    key: tuple[Any, ...],
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    out_dtype: torch.dtype | None,
    keep_preact: bool,
) -> Launch:
    problem = make_problem(
        a, b, bias, residual, activation=activation, out_dtype=out_dtype, keep_preact=keep_preact
    )
    return dispatch.resolve("matmul", key, problem, settings.current())


def _addend_key(addend: Tensor | None) -> tuple[Any, ...] | None:
    return None if addend is None else (addend.shape, addend.stride(), addend.dtype)


def _cpu_kernel(keep_preact: bool) -> Callable[..., Any]:
    operation = "matmul_with_preact" if keep_preact else "matmul"
    lookup, current, num_threads = dispatch.lookup, settings.current, torch.get_num_threads

    def kernel(
        a: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        activation: str = "none",
        out_dtype: torch.dtype | None = None,
    ) -> Any:
        # The dispatcher comes here only when every tensor is on the CPU, so the key names no device.
        key = (
            operation,
            a.shape,
            a.stride(),
            a.dtype,
            b.shape,
            b.stride(),
            b.dtype,
            None if bias is None else _addend_key(bias),
            None if residual is None else _addend_key(residual),
            activation,
            out_dtype,
            current().key,
            num_threads(),
        )
        launch = lookup(key)
        if launch is None:
            launch = _resolve(key, a, b, bias, residual, activation, out_dtype, keep_preact)
        return launch(a, b, bias, residual)

    return kernel


def _cuda_kernel(keep_preact: bool) -> Callable[..., Any]:
    operation = "matmul_with_preact" if keep_preact else "matmul"

    def launch_here(a: Tensor, b: Tensor, bias: Any, residual: Any, activation: str, out_dtype: Any) -> Any:
        address = a.data_ptr() | b.data_ptr()
        for extra in (bias, residual):
            if extra is not None:
                address |= extra.data_ptr()
        options = settings.current()
        key = (
            operation,
            a.shape,
            a.stride(),
            a.dtype,
            a.device,
            b.shape,
            b.stride(),
            b.dtype,
            b.device,
            None if bias is None else (_addend_key(bias), bias.device),
            None if residual is None else (_addend_key(residual), residual.device),
            activation,
            out_dtype,
            options.key,
            address & 15,
            dispatch.fp32_precision(options, True) if a.dtype == torch.float32 else None,
        )
        launch = dispatch.lookup(key)
        if launch is None:
            launch = _resolve(key, a, b, bias, residual, activation, out_dtype, keep_preact)
        return launch(a, b, bias, residual)

    def kernel(
        a: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        activation: str = "none",
        out_dtype: torch.dtype | None = None,
    ) -> Any:
        if a.is_cuda and a.device.index != torch.cuda.current_device():
            with torch.cuda.device(a.device):
                return launch_here(a, b, bias, residual, activation, out_dtype)
        return launch_here(a, b, bias, residual, activation, out_dtype)

    return kernel


# --- decomposition and fake ----------------------------------------------------------------------------------


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


# --- gradients ---------------------------------------------------------------------------------------------


def _save(
    ctx: Any, inputs: tuple[Any, ...], keywords: dict[str, Any], y: Tensor | None, z: Tensor | None
) -> None:
    a, b, bias, residual = inputs
    needs_a, needs_b = ctx.needs_input_grad[-4:-2]
    activation = keywords["activation"]
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
    ctx.activation, ctx.out_dtype, ctx.recompute = activation, keywords["out_dtype"], recompute
    ctx.a_meta, ctx.b_meta = (a.shape, a.dtype), (b.shape, b.dtype)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.residual_meta = None if residual is None else (residual.shape, residual.dtype)
    # Backward may run in a thread of autograd's own, which sees none of this thread's context variables.
    ctx.options = settings.current()
    ctx.set_materialize_grads(False)


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor
) -> None:
    _save(ctx, inputs, keyword_only_inputs, output, None)


def _setup_context_with_preact(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, Tensor]
) -> None:
    _save(ctx, inputs, keyword_only_inputs, output[0], output[1])


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    return _backward_with_preact(ctx, grad, None)


def _backward_with_preact(
    ctx: Any, grad_y: Tensor | None, grad_z: Tensor | None
) -> tuple[Tensor | None, ...]:
    with settings.applied(ctx.options):
        return _gradients(ctx, grad_y, grad_z)


def _gradients(ctx: Any, grad_y: Tensor | None, grad_z: Tensor | None) -> tuple[Tensor | None, ...]:
    a, b, saved, bias, residual = ctx.saved_tensors
    grad = None
    if grad_y is not None:
        if ctx.recompute:
            saved = _call(a, b, bias, residual, "none", ctx.out_dtype)
        grad = activate_backward(grad_y, saved, ctx.activation)
    if grad_z is not None:
        grad = grad_z if grad is None else grad + grad_z
    if grad is None:
        return None, None, None, None
    needs_a, needs_b, needs_bias, needs_residual = ctx.needs_input_grad[-4:]
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


def _grad_a(grad: Tensor, b: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """grad · Bᵀ, summed over what A was broadcast along."""
    if b.ndim == 1:
        grad, b = grad.unsqueeze(-1), b.unsqueeze(-1)
    if len(shape) == 1:
        grad = grad.unsqueeze(-2)
    product = _product(grad, b.mT, dtype)
    if product.shape == shape:
        return product
    return product.sum_to_size((1, *shape) if len(shape) == 1 else shape).reshape(shape)


def _grad_b(grad: Tensor, a: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Aᵀ · grad, summed over what B was broadcast along."""
    if len(shape) == 1:
        grad = grad.unsqueeze(-1)
    if a.ndim == 1:
        grad, a = grad.unsqueeze(-2), a.unsqueeze(0)
    if len(shape) <= 2 and a.ndim > 2:
        # One B under a batch of A: the sum over the batch is part of the product, not a second pass.
        a, grad = a.flatten(0, -2), grad.flatten(0, -2)
    product = _product(a.mT, grad, dtype)
    if product.shape == shape:
        return product
    return product.sum_to_size((*shape, 1) if len(shape) == 1 else shape).reshape(shape)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    if a.dtype == b.dtype == dtype:
        return _call(a, b, None, None, "none", None)
    wide = torch.promote_types(a.dtype, b.dtype)
    return _call(a.to(wide), b.to(wide), None, None, "none", dtype if dtype != wide else None)


# --- registration ------------------------------------------------------------------------------------------


def _flops(a: Sequence[int], b: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """2·M·N·K per matrix of the batch."""
    count = 2 * a[-1]
    for size in output_shape(a, b):
        count *= size
    return count


def _flops_raw(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return _flops(a.shape, b.shape)


_OP = library.define(
    f"matmul{_SCHEMA}Tensor",
    kernels=(_cpu_kernel(keep_preact=False), _cuda_kernel(keep_preact=False)),
    fake=_fake,
    decomposition=decompose,
    autocast=_autocast("matmul"),
    setup_context=_setup_context,
    backward=_backward,
    flops=_flops_raw,
)
_OP_WITH_PREACT = library.define(
    f"matmul_with_preact{_SCHEMA}(Tensor, Tensor)",
    kernels=(_cpu_kernel(keep_preact=True), _cuda_kernel(keep_preact=True)),
    fake=_fake_with_preact,
    decomposition=decompose_with_preact,
    autocast=_autocast("matmul_with_preact"),
    setup_context=_setup_context_with_preact,
    backward=_backward_with_preact,
    flops=_flops_raw,
)


# --- the public functions ------------------------------------------------------------------------------------


# Bound once, as in library.py: these are on every call's way.
_is_grad_enabled = torch.is_grad_enabled
_is_inference = torch.is_inference_mode_enabled
_is_compiling = torch.compiler.is_compiling
_below_autograd = torch._C._AutoDispatchBelowAutograd


def _call(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    out_dtype: torch.dtype | None,
) -> Tensor:
    if _is_grad_enabled() and library.any_requires_grad(a, b, bias, residual):
        if activation in NEEDS_PREACT:
            y: Tensor = _OP_WITH_PREACT(a, b, bias, residual, activation=activation, out_dtype=out_dtype)[0]
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
        y = _OP(a, b, bias, residual, activation=activation, out_dtype=out_dtype)
    elif activation != "none":
        if residual is None:
            y = _OP(a, b, bias, activation=activation)
        else:
            y = _OP(a, b, bias, residual, activation=activation)
    elif residual is not None:
        y = _OP(a, b, bias, residual)
    elif bias is not None:
        y = _OP(a, b, bias)
    else:
        y = _OP(a, b)
    return y


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
        return _call(a, b, bias, residual, activation, out_dtype)
    except (AttributeError, TypeError, RuntimeError) as error:
        # torch's own complaint about an argument that is no tensor names neither it nor the remedy.
        refusal = None if isinstance(error, Error) else _type_refusal(a, b, bias, residual)
        if refusal is None:
            raise
        raise refusal from None


def _type_refusal(a: Any, b: Any, bias: Any, residual: Any) -> Error | None:
    try:
        for name, value in (("a", a), ("b", b), ("bias", bias), ("residual", residual)):
            if value is not None or name in ("a", "b"):
                checks.check_tensor("matmul", name, value)
    except Error as refusal:
        return refusal
    return None


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
        return _call(x, b, bias, residual, activation, None)
    except (Error, AttributeError, RuntimeError) as error:
        refusal = _linear_refusal(x, weight, bias, residual, activation, error)
        if refusal is None:
            raise
        raise refusal from None


def _linear_refusal(
    x: Any, weight: Any, bias: Any, residual: Any, activation: str, cause: BaseException
) -> Error | None:
    """What matmul refused, in linear's own words; None where the cause is another."""
    try:
        checks.check_tensor("linear", "x", x)
        checks.check_tensor("linear", "weight", weight)
        if weight.ndim not in (1, 2):
            checks.shape_error("linear", "weight", weight.shape, "(out_features, in_features)", "reshape it")
        if x.ndim > 0 and x.shape[-1] != weight.shape[-1]:
            checks.shape_error(
                "linear",
                "weight",
                weight.shape,
                f"(out_features, {x.shape[-1]}) to match x {checks.shape_text(['...', x.shape[-1]])}",
                "use the layer with x of its in_features, or transpose weight",
            )
        if isinstance(cause, Error):
            check("linear", x, weight.t(), bias, residual, activation, None, names=("x", "weight"))
    except Error as refusal:
        return refusal
    return None


def linear_problem(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
) -> MatmulProblem:
    """The problem that `linear` of the same arguments poses."""
    check("linear", x, weight.t(), bias, residual, activation, None, names=("x", "weight"))
    return make_problem(x, weight.t(), bias, residual, activation=activation)
