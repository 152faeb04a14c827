"""Layers of tilewright.nn that are small and odd, and what they should compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tilewright.holders import weight_of
from tilewright.kernels.epilogue import activate
from tilewright.nn import Conv2d, Linear, PackedLayer

IN, OUT, ROWS = 37, 21, 18
CHANNELS, FILTERS = 6, 10
IMAGE = (2, CHANNELS, 7, 9)


def layer(activation: str = "relu", dtype: torch.dtype = torch.float32, **options: Any) -> Linear:
    return Linear(IN, OUT, activation=activation, dtype=dtype, **options).eval()


def conv2d(
    activation: str = "relu", dtype: torch.dtype = torch.float32, kernel_size: int = 3, **options: Any
) -> Conv2d:
    return Conv2d(CHANNELS, FILTERS, kernel_size, activation=activation, dtype=dtype, **options).eval()


def conv2d_channels_last() -> Conv2d:
    return conv2d(padding=1, stride=2).to(memory_format=torch.channels_last)


def conv2d_pointwise() -> Conv2d:
    """One that is a matrix product."""
    return conv2d(kernel_size=1).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Kind:
    """A kind of layer, and the operation that runs it."""

    make: Callable[[], PackedLayer]
    runs: str

    def inputs(self, make: Callable[..., Tensor] = torch.randn) -> Tensor:
        return inputs(self.make(), make)


KINDS = {
    "linear": Kind(layer, "matmul"),
    "conv2d": Kind(conv2d, "conv2d"),
    "conv2d channels_last": Kind(conv2d_channels_last, "conv2d"),
    "conv2d 1x1": Kind(conv2d_pointwise, "matmul"),
}


def like(module: PackedLayer) -> PackedLayer:
    """Another layer of the same kind, with other parameters."""
    if isinstance(module, Linear):
        return layer()
    assert isinstance(module, Conv2d)
    other = conv2d(kernel_size=module.kernel_size[0], stride=module.stride, padding=module.padding)
    return other.to(memory_format=torch.channels_last) if _channels_last(module) else other


def inputs(module: PackedLayer, make: Callable[..., Tensor] = torch.randn) -> Tensor:
    """An input of the module, whose weight nobody gets to hold here."""
    if isinstance(module, Linear):
        return make(ROWS, IN)
    return make(*IMAGE).contiguous(
        memory_format=torch.channels_last if _channels_last(module) else torch.contiguous_format
    )


def _channels_last(module: PackedLayer) -> bool:
    return bool(weight_of(module).is_contiguous(memory_format=torch.channels_last))


def element(module: PackedLayer) -> tuple[int, ...]:
    """An index into the weight, of no element that `pack(frozen=True)` looks at."""
    return (3, 5, 0, 0)[: module.weight_dims]


def expected(
    module: PackedLayer, x: Tensor, residual: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """By torch alone, on what the parameters hold now; takes no part in who holds the weight."""
    if weight is None:
        weight = weight_of(module)
    if isinstance(module, Linear):
        z = torch.nn.functional.linear(x, weight, module.bias)
    else:
        assert isinstance(module, Conv2d)
        geometry: tuple[Any, ...] = (module.stride, module.padding, module.dilation, module.groups)
        z = torch.nn.functional.conv2d(x, weight, module.bias, *geometry)
    return activate(z if residual is None else z + residual, module.activation)


def assert_right(module: PackedLayer, x: Tensor, calls: int = 3) -> None:
    """Every one of several calls; the first may be the one that packs."""
    with torch.no_grad():
        for _ in range(calls):
            torch.testing.assert_close(module(x), expected(module, x), rtol=1e-5, atol=1e-5)
