"""Small models of tilewright's layers and functions, and the same in torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import tilewright
from tilewright.nn import Conv2d, Linear


def assert_equal(y: Tensor, expected: Tensor) -> None:
    """Equal up to rounding errors in fp32 that went through a few layers, whatever the largest output is."""
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5 * largest)


def operators(program: torch.export.ExportedProgram) -> list[str]:
    """Every operator of the program, those inside control flow too."""
    return [
        str(node.target)
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    ]


class Images(nn.Module):
    """Convolutions in every form of padding, a residual, layers, and torch's own modules between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2d(3, 8, 3, stride=2, padding=1, activation="relu")
        self.even = Conv2d(8, 8, (4, 2), padding="same", activation="silu")
        self.grouped = Conv2d(8, 8, 3, padding=(1, 0), groups=4, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.reflected = Conv2d(8, 8, 3, padding=1, padding_mode="reflect", activation="gelu")
        self.circular = Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.dilated = Conv2d(8, 8, 3, padding="valid", dilation=2, activation="gelu_tanh")
        self.pointwise = Conv2d(8, 8, 1)
        self.plain = nn.Conv2d(8, 12, 3)
        self.hidden = Linear(12, 16, activation="relu")
        self.head = Linear(16, 5, bias=False)
        assert self.norm.running_mean is not None
        self.norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.even(x, x)
        x = self.norm(self.grouped(x))
        x = self.circular(self.reflected(x))
        x = self.pointwise(self.dilated(x)).relu_()
        return self.head(self.hidden(self.plain(x).mean((2, 3))))


class Rows(nn.Module):
    """Layers and products on (batch, rows, features): the residual, products of activations, mixed dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Linear(12, 24, activation="gelu")
        self.down = Linear(24, 12)
        self.square = nn.Parameter(torch.randn(12, 12))
        self.shift = nn.Parameter(torch.randn(12, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.up(x), x)
        scores = tilewright.matmul(x, x.mT)
        x = tilewright.matmul(scores, x, activation="silu")
        x = tilewright.matmul(x, self.square, bias=self.shift, residual=x)
        return tilewright.linear(x, self.square, self.shift)


MODELS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "images": (Images, (4, 3, 25, 24)),
    "rows": (Rows, (4, 7, 12)),
}


def exported(
    model: nn.Module, x: Tensor, *, strict: bool = False, dynamic: bool = True
) -> torch.export.ExportedProgram:
    """The program, for every size of batch."""
    sizes: Any = ({0: torch.export.Dim("batch", min=2)},) if dynamic else None
    return torch.export.export(model, (x,), dynamic_shapes=sizes, strict=strict)
