"""Operations on packed weights, for graphs whose parameters are frozen.

A `FrozenWeight` travels on the tensor that it was made of, as an attribute: torch's dispatcher hands the same Python
object on. A tensor without one is multiplied as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright import settings
from tilewright.ops import flop_formulas
from tilewright.ops.conv2d_op import CONV2D
from tilewright.ops.library import LIBRARY, TAGS
from tilewright.ops.matmul_op import MATMUL
from tilewright.ops.packed import FrozenWeight, frozen_conv2d, frozen_linear

_FORM = "_tilewright_frozen"
_current = settings.current

LIBRARY.define(
    "frozen_linear(Tensor x, Tensor weight, Tensor? bias=None, Tensor? residual=None, "
    'str activation="none") -> Tensor',
    tags=TAGS,
)
LIBRARY.define(
    "frozen_conv2d(Tensor x, Tensor weight, Tensor? bias=None, Tensor? residual=None, "
    'str activation="none", SymInt[] stride=[1, 1], SymInt[] padding=[0, 0, 0, 0], SymInt[] dilation=[1, 1], '
    "SymInt groups=1) -> Tensor",
    tags=TAGS,
)
FROZEN_LINEAR: Any = torch.ops.tilewright.frozen_linear.default
FROZEN_CONV2D: Any = torch.ops.tilewright.frozen_conv2d.default


def freeze(weight: Tensor) -> Tensor:
    """The weight as another tensor in the same memory, which carries its packed forms. It must not be written."""
    with torch.inference_mode(False), torch.no_grad():
        carrier = weight.detach()
        setattr(carrier, _FORM, FrozenWeight(weight.detach()))
    return carrier


def _key(bias: Tensor | None) -> Any:
    return None if bias is None else (bias.shape, bias.stride(), bias.dtype)


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    form = getattr(weight, _FORM, None)
    if form is None or not _current().pack:
        y: Tensor = MATMUL.overload(x, weight.t(), bias, residual, activation)
        return y
    return frozen_linear(x, form, bias, _key(bias), activation, residual)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    form = getattr(weight, _FORM, None)
    if form is None or not _current().pack or not _symmetric(padding):
        y: Tensor = CONV2D.overload(x, weight, bias, residual, activation, stride, padding, dilation, groups)
        return y
    geometry = tuple(stride), (padding[0], padding[2]), tuple(dilation), groups
    return frozen_conv2d(x, form, bias, _key(bias), geometry, activation, residual)


def _symmetric(padding: Sequence[int]) -> bool:
    return padding[0] == padding[1] and padding[2] == padding[3]


def _fake_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    y: Tensor = MATMUL.overload(x, weight.t(), bias, residual, activation)
    return y


def _fake_conv2d(*args: Any) -> Tensor:
    y: Tensor = CONV2D.overload(*args)
    return y


def _register() -> None:
    for name, kernel, fake in (
        ("frozen_linear", _linear, _fake_linear),
        ("frozen_conv2d", _conv2d, _fake_conv2d),
    ):
        LIBRARY.impl(name, kernel, "CPU")
        # Graphs of inference have no gradients: nothing stands between a call and its kernel.
        LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
        torch.library.register_fake(f"tilewright::{name}", fake, lib=LIBRARY)
    flop_formulas.add(
        torch.ops.tilewright.frozen_linear,
        lambda x, weight, *rest, out_val: 2 * x.numel() * weight.shape[0],
    )
    flop_formulas.add(
        torch.ops.tilewright.frozen_conv2d,
        lambda x, weight, *rest, out_val: 2 * out_val.numel() * weight[0].numel(),
    )
    flop_formulas.install()


_register()
