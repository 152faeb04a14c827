"""A fully connected network on handwritten digits, through tilewright's layers and through torch's.

    python examples/train_mlp.py                  fp32
    python examples/train_mlp.py --dtype bf16     under autocast
    python examples/train_mlp.py --out loss.png   both loss curves, drawn

Layers of 64 → 512 → 128 → 10 with ReLU, trained with Adam.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

import tilewright
from tilewright.examples.training import Example
from tilewright.examples.training import main as run

WIDTHS = (64, 512, 128, 10)


class Mlp(nn.Module):
    """Images (N, 64) to scores (N, 10): every layer one tilewright call, with the ReLU fused into it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = tilewright.nn.Linear(WIDTHS[0], WIDTHS[1], activation="relu")
        self.second = tilewright.nn.Linear(WIDTHS[1], WIDTHS[2], activation="relu")
        self.head = tilewright.nn.Linear(WIDTHS[2], WIDTHS[3])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.second(self.first(x)))
        return y


class TorchMlp(nn.Module):
    """The same network as anyone would write it; its state_dict fits `Mlp` and the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTHS[0], WIDTHS[1])
        self.second = nn.Linear(WIDTHS[1], WIDTHS[2])
        self.head = nn.Linear(WIDTHS[2], WIDTHS[3])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x))
        y: Tensor = self.head(x)
        return y


def optimize(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


EXAMPLE = Example("MLP", Mlp, TorchMlp, optimize, images=False, epochs=30)

if __name__ == "__main__":
    sys.exit(run(EXAMPLE))
