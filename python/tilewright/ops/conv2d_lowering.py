"""Convolutions that are matrix products, in matmul's terms: windows of 1x1 that step over every pixel.

With the channels innermost, (N, H, W, C) · (C, K) is one product over all pixels, and its epilogue is the
convolution's. With the pixels innermost it is (K, C) · (N, C, H·W), where a bias would belong to the rows, which
matmul's epilogue does not have: such a convolution stays one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tilewright import settings
from tilewright.kernels.precision import cuda_matmul_precision, cudnn_conv_precision
from tilewright.ops.conv2d_op import Conv2dArguments, lies_channels_last
from tilewright.ops.library import is_grad_enabled
from tilewright.ops.matmul_op import MatmulArguments


class Lowered(NamedTuple):
    """A convolution as a product."""

    product: MatmulArguments
    weight_is_b: bool
    restore: Callable[[Tensor], Tensor]  # the product's result to the convolution's


def lowered(given: Conv2dArguments) -> Lowered | None:
    """The product that a convolution amounts to, on views of its operands; None where it is none of those above.

    Arguments need not have been checked: what a convolution would refuse is not lowered, or refused by matmul too.
    """
    x, weight, bias, residual, activation, stride, padding, _, groups = given
    if groups != 1 or stride != (1, 1) or padding != (0, 0, 0, 0) or x.ndim != 4 or weight.ndim != 4:
        return None
    out_channels, channels, *window = weight.shape
    if window != [1, 1] or x.shape[1] != channels or x.numel() == 0 or weight.numel() == 0:
        return None
    if residual is not None and residual.ndim > 4:
        return None
    if x.is_cuda and not _same_precision(x):
        return None
    batch, _, height, width = x.shape
    last = lies_channels_last(x, weight)
    if height == 1 and width == 1:
        if residual is not None:
            if any(size != 1 for size in residual.shape[-2:]):
                return None
            residual = residual.reshape(residual.shape[:-2])
        pixels = x.view(batch, channels)
        restore = _as_last if last else _as_first
    elif last and x.is_contiguous(memory_format=torch.channels_last):
        if residual is not None:
            residual = residual[(None,) * (4 - residual.ndim)].permute(0, 2, 3, 1)
        pixels = x.permute(0, 2, 3, 1)
        restore = _permuted
    else:
        return None if last or bias is not None else _images(given)
    columns = weight.view(out_channels, channels).t()
    return Lowered(MatmulArguments(pixels, columns, bias, residual, activation), True, restore)


def _images(given: Conv2dArguments) -> Lowered | None:
    """Pixels innermost: the weight times each image."""
    x, weight, residual = given.x, given.weight, given.residual
    if not x.is_contiguous() or (is_grad_enabled() and weight.requires_grad):
        # The weight's gradient would be a product for each image, summed afterwards.
        return None
    batch, channels, height, width = x.shape
    shape = (batch, weight.shape[0], height, width)
    if residual is not None:
        if residual.shape != shape or not residual.is_contiguous():
            return None
        residual = residual.view(batch, shape[1], height * width)
    rows, pixels = weight.view(shape[1], channels), x.view(batch, channels, height * width)
    product = MatmulArguments(rows, pixels, None, residual, given.activation)
    return Lowered(product, False, lambda y: y.view(shape))


def _permuted(y: Tensor) -> Tensor:
    return y.permute(0, 3, 1, 2)


def _as_first(y: Tensor) -> Tensor:
    return y[:, :, None, None]


def _as_last(y: Tensor) -> Tensor:
    return y[:, None, None, :].permute(0, 3, 1, 2)


def _same_precision(x: Tensor) -> bool:
    """Whether matmul is to compute as precisely as the convolution: torch has a setting for each."""
    if x.dtype != torch.float32 or settings.current().precision != "auto":
        return True
    # Not to be read while tracing, as nothing would guard it.
    return not torch.compiler.is_compiling() and cudnn_conv_precision() == cuda_matmul_precision()
