"""Convolutions, and gradients of convolutions, that are matrix products: windows of 1x1 that step over every pixel.

With the channels innermost, an image is a matrix (N·H·W, C), and all that a convolution needs is one product::

    y  = x · wᵀ     (N·H·W, C) · (C, K), and its epilogue is the convolution's
    dx = dy · w     (N·H·W, K) · (K, C)
    dw = dyᵀ · x    (K, N·H·W) · (N·H·W, C)

With the pixels innermost, ``y = w · x`` is (K, C) · (N, C, H·W) and ``dx = wᵀ · dy``. There a bias would belong to the
rows, which matmul's epilogue does not have, and dw would be a sum over products: those two stay convolutions.

A lowering is found when a call's choice is made, on operands that were checked; every later call of its key views its
operands in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tilewright import settings
from tilewright.kernels.conv2d.problem import output_strides, wants_channels_last
from tilewright.kernels.interface import Launch
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.precision import cudnn_conv_precision
from tilewright.ops.conv2d_op import (
    Conv2dArguments,
    Geometry,
    InputGradientArguments,
    WeightGradientArguments,
)
from tilewright.ops.matmul_kernels import make_problem as make_matmul_problem
from tilewright.ops.matmul_op import MatmulArguments


class Lowered(NamedTuple):
    """A convolution as a product."""

    product: MatmulArguments
    second_first: bool  # a is a view of the launch's second operand, b of its first
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def weight_is_b(self) -> bool:
        """Of a forward convolution, whether matmul may be promised a frozen weight: it packs b alone."""
        return not self.second_first

    def restore(self, y: Tensor) -> Tensor:
        """The convolution's result, which lies in memory as the product's does."""
        return y.as_strided(self.shape, self.strides)

    def problem(self, *, keep_preact: bool = False, frozen: bool = False) -> MatmulProblem:
        """What the product asks of a kernel."""
        posed = make_matmul_problem(self.product, keep_preact=keep_preact, frozen_b=frozen)
        if posed.device == "cuda" and posed.dtype == torch.float32 and settings.current().precision == "auto":
            # torch has a setting for each, and a user who asks for a convolution goes by that one.
            return replace(posed, precision=cudnn_conv_precision())
        return posed

    def launch(self, multiply: Launch) -> Launch:
        """The convolution's launch of the product's."""
        # Nothing of the operands is kept but how the product sees them, which is the same for every call of a key.
        a, b = ((part.shape, part.stride()) for part in self.product[:2])
        addend = self.product.residual
        seen: Any = None if addend is None else (addend.shape, addend.stride())
        second_first, shape, strides = self.second_first, self.shape, self.strides

        def convolve(
            first: Tensor, second: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
        ) -> Tensor | tuple[Tensor, ...]:
            if second_first:
                first, second = second, first
            if residual is not None:
                residual = residual.as_strided(*seen)
            y = multiply(first.as_strided(*a), second.as_strided(*b), bias, residual)
            if isinstance(y, tuple):
                return tuple(each.as_strided(shape, strides) for each in y)
            restored: Tensor = y.as_strided(shape, strides)
            return restored

        return convolve


def lowered(given: Conv2dArguments) -> Lowered | None:
    """The product that a convolution amounts to; None where it is none of those above."""
    x, weight, bias, residual, activation, *_ = given
    if not _pointwise(weight.shape[2:], given.geometry) or x.numel() == 0:
        return None
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    last = wants_channels_last(x, weight)
    if residual is not None:
        residual = residual.expand(shape)
    matrix = weight.view(weight.shape[:2])
    if _innermost(x, last):
        pixels, addend = x.permute(0, 2, 3, 1), None if residual is None else residual.permute(0, 2, 3, 1)
        flat = None if addend is None else _flat(addend, 0, 2)
        if addend is None or flat is not None:
            # Two matrices, where no addend stands in the way: torch's own shortest calls take nothing else.
            pixels, addend = pixels.flatten(0, 2), flat
        return _as(MatmulArguments(pixels, matrix.t(), bias, addend, activation), shape, last)
    if last or bias is not None or not x.is_contiguous():
        return None
    if residual is not None:
        residual = _flat(residual, 2, 3)
        if residual is None:
            return None
    product = MatmulArguments(matrix, x.flatten(2), None, residual, activation)
    return _as(product, shape, last, second_first=True)


def lowered_input_gradient(given: InputGradientArguments) -> Lowered | None:
    """The same for the gradient of x."""
    grad, weight, last = given.grad, given.weight, given.channels_last
    if not _pointwise(weight.shape[2:], given.geometry) or grad.numel() == 0:
        return None
    shape = (grad.shape[0], weight.shape[1], *grad.shape[2:])
    matrix = weight.view(weight.shape[:2])
    if _innermost(grad, last):
        return _as(MatmulArguments(_rows(grad), matrix), shape, last)
    if last or not grad.is_contiguous():
        return None
    return _as(MatmulArguments(matrix.t(), grad.flatten(2)), shape, last, second_first=True)


def lowered_weight_gradient(given: WeightGradientArguments) -> Lowered | None:
    """The same for the gradient of the weight."""
    grad, x = given.grad, given.x
    if not _pointwise(given.kernel, given.geometry) or grad.numel() == 0:
        return None
    if not all(image.is_contiguous(memory_format=torch.channels_last) for image in (grad, x)):
        return None
    rows, columns = map(_rows, (grad, x))
    shape = (grad.shape[1], x.shape[1], 1, 1)
    return _as(MatmulArguments(rows.t(), columns), shape, given.channels_last)


def _pointwise(kernel: Sequence[int], geometry: Geometry) -> bool:
    stride, padding, _, groups = geometry
    return groups == 1 and tuple(kernel) == (1, 1) and tuple(stride) == (1, 1) and not any(padding)


def _innermost(images: Tensor, channels_last: bool) -> bool:
    """Whether channels lie innermost in the images and are to do so in the result; of a single pixel, both are true."""
    if images.shape[2] == 1 and images.shape[3] == 1:
        return images.is_contiguous()
    return channels_last and images.is_contiguous(memory_format=torch.channels_last)


def _rows(images: Tensor) -> Tensor:
    """(N·H·W, C), of images with channels innermost."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def _flat(images: Tensor, first: int, last: int) -> Tensor | None:
    """`images` with these dimensions as one; None where that would take a copy."""
    shape = images.shape
    try:
        return images.view(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
    except RuntimeError:
        return None


def _as(
    product: MatmulArguments, shape: tuple[int, ...], channels_last: bool, second_first: bool = False
) -> Lowered:
    return Lowered(product, second_first, shape, output_strides(shape, channels_last))
