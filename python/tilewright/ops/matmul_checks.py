"""What matmul and linear take, and what they say of anything else."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tilewright.errors import Error
from tilewright.kernels.matmul.problem import output_shape
from tilewright.ops import checks
from tilewright.ops.matmul_op import MatmulArguments


def check(
    given: MatmulArguments, operation: str = "matmul", names: tuple[str, str] = ("a", "b")
) -> list[int]:
    """Raises on anything that the operation does not take; returns the output's shape. Runs nothing.

    Messages speak of `operation` and call its operands `names`.
    """
    a, b, bias, residual, activation, out_dtype = given
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


def linear_arguments(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str
) -> MatmulArguments:
    """What `linear` asks of matmul, checked in linear's own words."""
    _check_layer(x, weight)
    given = MatmulArguments(x, weight.t(), bias, residual, activation)
    check(given, "linear", ("x", "weight"))
    return given


def _check_layer(x: Any, weight: Any) -> None:
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


# torch's own complaint about an argument that is no tensor, say, names neither the argument nor a remedy. These two
# find our word for it. They check no more than that where the cause is another: under autocast, operands of two
# dtypes are right, and running out of memory is not their fault.


def matmul_refusal(cause: BaseException, a: Any, b: Any, bias: Any, residual: Any) -> Error | None:
    """What to say of matmul's arguments in place of `cause`; None where it says it best."""
    if isinstance(cause, Error):
        return None
    try:
        for name, value in (("a", a), ("b", b), ("bias", bias), ("residual", residual)):
            if value is not None or name in ("a", "b"):
                checks.check_tensor("matmul", name, value)
    except Error as refusal:
        return refusal
    return None


def linear_refusal(
    cause: BaseException, x: Any, weight: Any, bias: Any, residual: Any, activation: str
) -> Error | None:
    """What to say of linear's arguments in place of `cause`, which speaks of matmul; None where that says it best."""
    try:
        if isinstance(cause, Error):
            linear_arguments(x, weight, bias, residual, activation)
        else:
            _check_layer(x, weight)
    except Error as refusal:
        return refusal
    return None
