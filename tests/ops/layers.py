"""A layer of tilewright.nn that is small and odd, and what it should compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilewright.holders import weight_of
from tilewright.kernels.epilogue import activate
from tilewright.nn import Linear

IN, OUT, ROWS = 37, 21, 18


def layer(activation: str = "relu", dtype: torch.dtype = torch.float32, **options: Any) -> Linear:
    return Linear(IN, OUT, activation=activation, dtype=dtype, **options).eval()


def expected(module: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """By torch alone, on what the parameters hold now; takes no part in who holds the weight."""
    z = torch.nn.functional.linear(x, weight_of(module), module.bias)
    return activate(z if residual is None else z + residual, module.activation)


def assert_right(module: Linear, x: Tensor, calls: int = 3) -> None:
    """Every one of several calls; the first may be the one that packs."""
    with torch.no_grad():
        for _ in range(calls):
            torch.testing.assert_close(module(x), expected(module, x), rtol=1e-5, atol=1e-5)
