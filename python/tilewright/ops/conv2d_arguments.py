"""What the public conv2d functions make of their arguments: every form that torch takes becomes the operation's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, Error
from tilewright.ops import checks
from tilewright.ops.conv2d_checks import check, check_weight
from tilewright.ops.conv2d_op import Conv2dArguments


def geometry_of(
    operation: str, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int], int]:
    """Pairs, and the padding of each side; values are checked where the operation runs."""
    # Integers first, without a call: this is on every convolution's way.
    stride = (stride, stride) if type(stride) is int else _pair(operation, "stride", stride)
    dilation = (dilation, dilation) if type(dilation) is int else _pair(operation, "dilation", dilation)
    if type(padding) is int:
        padding = (padding, padding, padding, padding)
    elif isinstance(padding, str):
        padding = _named_padding(operation, padding, weight, stride, dilation)
    else:
        rows, columns = _pair(operation, "padding", padding)
        padding = (rows, rows, columns, columns)
    if type(groups) is not int:
        groups = _integer(operation, "groups", groups, groups)
    return stride, padding, dilation, groups


def conv2d_arguments(
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
) -> Conv2dArguments:
    """What a public function asks of the operation, checked in that function's words."""
    for name, tensor in (("x", x), ("weight", weight)):
        checks.check_tensor(operation, name, tensor)
    geometry = geometry_of(operation, weight, stride, padding, dilation, groups)
    if x.ndim not in (3, 4):
        checks.shape_error(operation, "x", x.shape, "(N, C, H, W) or (C, H, W)", "reshape it")
    if x.ndim == 3:
        x = x.unsqueeze(0)
        check_unbatched_residual(operation, residual)
    given = Conv2dArguments(x, weight, bias, residual, activation, *geometry)
    check(given, operation)
    return given


def check_unbatched_residual(operation: str, residual: Any) -> None:
    if isinstance(residual, Tensor) and residual.ndim > 3:
        checks.shape_error(
            operation,
            "residual",
            residual.shape,
            "at most three dimensions, as x has no batch",
            "give x a batch dimension, or take it from residual",
        )


def _named_padding(
    operation: str, name: str, weight: Tensor, stride: Any, dilation: Any
) -> tuple[int, int, int, int]:
    """``valid`` pads nothing, ``same`` keeps the image's size; where that is odd, the far side gets one more."""
    if name == "valid":
        return (0, 0, 0, 0)
    if name != "same":
        raise ArgumentError(
            f"{operation}: padding is {name!r}; expected 'same', 'valid', an integer or a pair of integers; "
            "correct padding"
        )
    if stride != (1, 1):
        raise ArgumentError(
            f"{operation}: padding is 'same' with stride {stride}; expected stride 1, as a strided output is never of "
            "the same size; pass padding in numbers"
        )
    check_weight(operation, weight)
    rows, columns = (step * (side - 1) for step, side in zip(dilation, weight.shape[2:], strict=True))
    return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2


def _pair(operation: str, name: str, value: Any) -> tuple[int, int]:
    """An integer for both dimensions, or one for each; a sequence of one is taken for both, as torch does."""
    if isinstance(value, (tuple, list)):
        if len(value) == 2 and type(value[0]) is type(value[1]) is int:
            return value[0], value[1]
        if len(value) in (1, 2):
            return _integer(operation, name, value[0], value), _integer(operation, name, value[-1], value)
        raise ArgumentError(
            f"{operation}: {name} is {value!r}; expected an integer or a pair of integers (height, width); "
            f"correct {name}"
        )
    one = _integer(operation, name, value, value)
    return one, one


def _integer(operation: str, name: str, value: Any, whole: Any) -> int:
    """`value`, part of the argument `whole`, if it counts something: no bool, no float."""
    if type(value) is int:
        return value
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    index = None if isinstance(value, (bool, Tensor)) else getattr(value, "__index__", None)
    if index is None:
        raise ArgumentError(
            f"{operation}: {name} is {whole!r}; expected integers, not {type(value).__name__}; convert it with int()"
        )
    return int(index())


# torch's own complaint about an argument that is no tensor, say, names neither the argument nor a remedy. This finds
# our word for it. It checks no more than that where the cause is another: under autocast, operands of two dtypes are
# right, and running out of memory is not their fault. What matmul says of a convolution that it runs is said anew.


def refusal_of(
    cause: BaseException, operation: str, x: Any, weight: Any, bias: Any, residual: Any, *others: Any
) -> Error | None:
    """What to say of the public function's arguments in place of `cause`; None where that says it best."""
    try:
        for name, value in (("x", x), ("weight", weight), ("bias", bias), ("residual", residual)):
            if value is not None or name in ("x", "weight"):
                checks.check_tensor(operation, name, value)
        if isinstance(cause, Error):
            conv2d_arguments(operation, x, weight, bias, residual, *others)
    except Error as refusal:
        return refusal
    return None
