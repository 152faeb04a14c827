"""What sparse_matmul takes, and what it says of anything else. Contents of buffers are `sparse_operands`' business."""

from __future__ import annotations

from tilewright.errors import DtypeError
from tilewright.kernels.sparse_matmul.formats import BUFFERS
from tilewright.kernels.sparse_matmul.validate import VALUE_DTYPES, check_layout
from tilewright.ops import checks
from tilewright.ops.sparse_matmul_op import NAMES, Given, buffers_of, format_of, out_features


def check(given: Given) -> list[int]:
    """Raises on anything that the operation does not take; returns the output's shape. Reads no values."""
    form, buffers = format_of(given), buffers_of(given)
    operation, x = NAMES[form], given.x
    named = [(name, buffer) for name, buffer in zip(BUFFERS[form], buffers, strict=True)]
    for name, tensor in (("x", x), *named):
        checks.check_tensor(operation, name, tensor)
    addends = (("bias", given.bias), ("residual", given.residual))
    for name, addend in addends:
        if addend is not None:
            checks.check_tensor(operation, name, addend)
    checks.check_device(operation, "x", x, (*named, *addends))
    if x.ndim == 0:
        checks.shape_error(operation, "x", x.shape, "(..., K)", "reshape it")
    if x.dtype not in VALUE_DTYPES:
        raise DtypeError(
            f"{operation}: x has dtype {checks.dtype_text(x.dtype)}; expected float32, bfloat16, float16 or float64; "
            "convert it with .to(...)"
        )
    n = out_features(given) if buffers[0].ndim else -1
    check_layout(operation, form, buffers, n, x.shape[-1])
    if given.values.dtype != x.dtype:
        raise DtypeError(
            f"{operation}: values has dtype {checks.dtype_text(given.values.dtype)}; expected "
            f"{checks.dtype_text(x.dtype)}, the dtype of x; convert one of them, or use torch.autocast"
        )
    checks.check_activation(operation, given.activation, x.dtype)
    if given.bias is not None:
        checks.check_addend_dtype(operation, "bias", given.bias, "x", x)
        if given.bias.ndim != 1 or given.bias.shape[0] != n:
            checks.shape_error(
                operation, "bias", given.bias.shape, f"({n},), one value per row of the weight", "reshape it"
            )
    shape = [*x.shape[:-1], n]
    if given.residual is not None:
        checks.check_addend_dtype(operation, "residual", given.residual, "x", x)
        checks.check_residual(operation, given.residual, shape)
    return shape
