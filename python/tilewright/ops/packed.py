"""linear and conv2d on a frozen weight: past torch's dispatcher, straight to the kernel that is bound for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.kernels.frozen import FrozenOperand
from tilewright.kernels.interface import Launch
from tilewright.ops.conv2d_arguments import check_unbatched_residual, conv2d_arguments
from tilewright.ops.conv2d_kernels import make_problem
from tilewright.ops.conv2d_lowering import Lowered, lowered
from tilewright.ops.matmul_kernels import linear_problem

_lookup, _current, _num_threads = dispatch.lookup, settings.current, torch.get_num_threads


class FrozenFilter(FrozenOperand):
    """A convolution's weight (out_channels, in_channels / groups, kernel_h, kernel_w), and what it is to a product.

    `matrix` is (in_channels, out_channels) of a 1×1 kernel, for convolutions that are matrix products; else None.
    """

    __slots__ = ("matrix",)

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        pointwise = weight.shape[2:] == (1, 1)
        self.matrix = FrozenOperand(weight[:, :, 0, 0].t()) if pointwise else None

    def bytes(self) -> int:
        return super().bytes() + (0 if self.matrix is None else self.matrix.bytes())


class FrozenWeight:
    """A layer's weight that will not change, with what kernels packed of it.

    Of linear's weight (out_features, in_features) the `operand` is the transpose, which its kernels multiply by; of
    conv2d's, a `FrozenFilter`.
    """

    __slots__ = ("_generation", "operand", "signature", "weight")

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.signature = (weight.shape, weight.stride(), weight.dtype)
        self.renew()

    def renew(self) -> None:
        """Lets go of packed forms. A launch that is under way keeps those that it uses."""
        self._generation = dispatch.generation()
        weight = self.weight
        self.operand = FrozenOperand(weight.t()) if weight.dim() == 2 else FrozenFilter(weight)

    @property
    def views(self) -> int:
        """How many tensors here lie in the weight's memory: `weight` itself, and what is the operand of a product."""
        operand = self.operand
        return 1 if isinstance(operand, FrozenFilter) and operand.matrix is None else 2

    def outdated(self) -> bool:
        """Whether choices were forgotten since: other kernels may be chosen now, which want other forms."""
        return self._generation != dispatch.generation()


def frozen_linear(
    x: Tensor,
    weight: FrozenWeight,
    bias: Tensor | None,
    bias_key: Any,
    activation: str,
    residual: Tensor | None,
) -> Tensor:
    """`linear` on CPU tensors, of which no gradient is wanted and that nobody watches.

    `bias_key` is the bias's (shape, strides, dtype), which its owner knows: asking takes 0.2 µs.
    """
    key = (
        "frozen_linear",
        x.shape,
        x.stride(),
        weight.signature,
        bias_key,
        None if residual is None else (residual.shape, residual.stride(), residual.dtype),
        activation,
        _current().key,
        _num_threads(),
    )
    launch = _lookup(key)
    if launch is None:
        if weight.outdated():
            weight.renew()
        pose = partial(
            linear_problem, x, weight.weight, bias, activation=activation, residual=residual, frozen=True
        )
        launch = dispatch.resolve("matmul", key, pose)
    y: Tensor = launch(x, weight.operand, bias, residual)
    return y


def frozen_conv2d(
    x: Tensor,
    weight: FrozenWeight,
    bias: Tensor | None,
    bias_key: Any,
    geometry: tuple[Any, Any, Any, Any],
    activation: str,
    residual: Tensor | None,
) -> Tensor:
    """`conv2d` in the same circumstances; `geometry` is (stride, padding, dilation, groups), as conv2d takes them."""
    if x.dim() == 3:
        check_unbatched_residual("conv2d", residual)
        images = x.unsqueeze(0)
        return frozen_conv2d(images, weight, bias, bias_key, geometry, activation, residual).squeeze(0)
    key = (
        "frozen_conv2d",
        x.shape,
        x.stride(),
        weight.signature,
        bias_key,
        None if residual is None else (residual.shape, residual.stride(), residual.dtype),
        geometry,
        activation,
        _current().key,
        _num_threads(),
    )
    try:
        launch = _lookup(key)
    except TypeError:
        if list not in map(type, geometry):
            raise
        stride, padding, dilation, groups = (tuple(x) if type(x) is list else x for x in geometry)
        geometry = stride, padding, dilation, groups
        return frozen_conv2d(x, weight, bias, bias_key, geometry, activation, residual)
    if launch is None:
        if weight.outdated():
            weight.renew()
        given = conv2d_arguments("conv2d", x, weight.weight, bias, residual, activation, *geometry)
        product = lowered(given)
        if product is not None and product.weight_is_b:
            pose_product = partial(product.problem, frozen=True)
            launch = dispatch.resolve("matmul", key, pose_product, _as_convolution(product))
        else:
            launch = dispatch.resolve("conv2d", key, partial(make_problem, given, frozen_weight=True))
    y: Tensor = launch(x, weight.operand, bias, residual)
    return y


def _as_convolution(product: Lowered) -> Callable[[Launch], Launch]:
    """What makes a convolution's launch of the product's, as `Lowered.launch` does for a weight that may change."""
    pixels, addend = product.product.a, product.product.residual
    pixels_seen = pixels.shape, pixels.stride()
    addend_seen: Any = None if addend is None else (addend.shape, addend.stride())
    shape, strides = product.shape, product.strides

    def wrap(multiply: Launch) -> Launch:
        def convolve(x: Tensor, weight: FrozenFilter, bias: Tensor | None, residual: Tensor | None) -> Tensor:
            if residual is not None:
                residual = residual.as_strided(*addend_seen)
            y: Tensor = multiply(x.as_strided(*pixels_seen), weight.matrix, bias, residual)
            return y.as_strided(shape, strides)

        return convolve

    return wrap
