"""The sparse_matmul operations, one for each format: arguments, schemas, and the shortest way to call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from tilewright.kernels.epilogue import NEEDS_PREACT
from tilewright.kernels.sparse_matmul.formats import BUFFERS, Buffers, values_of
from tilewright.ops.library import Operation, any_requires_grad, is_grad_enabled, transforms_active


class BsrArguments(NamedTuple):
    """In the order of the schema; `tilewright.sparse_matmul` says what they mean."""

    x: Tensor
    crow: Tensor
    col: Tensor
    values: Tensor
    out_features: int
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "none"


class BitmapArguments(NamedTuple):
    x: Tensor
    bits: Tensor
    row: Tensor
    values: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "none"


class TwoFourArguments(NamedTuple):
    x: Tensor
    values: Tensor
    indices: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "none"


Given = BsrArguments | BitmapArguments | TwoFourArguments

ARGUMENTS: dict[str, Any] = {"2:4": TwoFourArguments, "bsr": BsrArguments, "bitmap": BitmapArguments}
NAMES = {"2:4": "sparse_matmul_2to4", "bsr": "sparse_matmul_bsr", "bitmap": "sparse_matmul_bitmap"}
_TENSORS = {
    "2:4": "Tensor values, Tensor indices",
    "bsr": "Tensor crow, Tensor col, Tensor values, int out_features",
    "bitmap": "Tensor bits, Tensor row, Tensor values",
}
_FORMAT_OF = {arguments: form for form, arguments in ARGUMENTS.items()}


def _define(form: str, suffix: str, result: str) -> Operation[Any]:
    schema = (
        f"{NAMES[form]}{suffix}(Tensor x, {_TENSORS[form]}, Tensor? bias=None, Tensor? residual=None, "
        f'str activation="none") -> {result}'
    )
    return Operation(schema, ARGUMENTS[form])


PLAIN: dict[str, Operation[Any]] = {form: _define(form, "", "Tensor") for form in BUFFERS}
WITH_PREACT: dict[str, Operation[Any]] = {
    form: _define(form, "_with_preact", "(Tensor, Tensor)") for form in BUFFERS
}
"""Also return the pre-activation, which the gradients of gelu and silu need."""


def format_of(given: Given) -> str:
    return _FORMAT_OF[type(given)]


def buffers_of(given: Given) -> Buffers:
    """The weight's buffers, in the order of its format."""
    return tuple(getattr(given, name) for name in BUFFERS[format_of(given)])


def out_features(given: Given) -> int:
    """N, which every format but bsr says itself."""
    return given.out_features if isinstance(given, BsrArguments) else buffers_of(given)[0].shape[0]


def arguments_of(
    form: str,
    x: Tensor,
    buffers: Sequence[Tensor],
    n: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
) -> Given:
    weight = (*buffers, n) if form == "bsr" else buffers
    given: Given = ARGUMENTS[form](x, *weight, bias, residual, activation)
    return given


def call(
    form: str,
    x: Tensor,
    buffers: Sequence[Tensor],
    n: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """The product, with gradients, functorch and forward-mode AD seen to; arguments are checked where they run."""
    given = arguments_of(form, x, buffers, n, bias, residual, activation)
    if transforms_active():
        y: Tensor = PLAIN[form].decompose(given)
        return y
    gradients = is_grad_enabled() and any_requires_grad(x, values_of(form, buffers), bias, residual)
    if gradients and activation in NEEDS_PREACT:
        y, _ = WITH_PREACT[form].call(tuple(given), gradients)
    else:
        y = PLAIN[form].call(tuple(given), gradients)
    return y
