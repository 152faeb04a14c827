"""A convolutional network on handwritten digits, through tilewright's layers and through torch's.

    python examples/train_cnn.py                  fp32
    python examples/train_cnn.py --dtype bf16     under autocast
    python examples/train_cnn.py --out loss.png   both loss curves, drawn

Two 3×3 convolutions of 64 and 128 channels, max-pooling, fully connected layers of 512 and 10; stochastic gradient
descent with momentum.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

import tilewright
from tilewright.examples.training import Example
from tilewright.examples.training import main as run


class Cnn(nn.Module):
    """Images (N, 1, 8, 8) to scores (N, 10): every layer one tilewright call, with the ReLU fused into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = tilewright.nn.Conv2d(1, 64, 3, padding=1, activation="relu")
        self.conv2 = tilewright.nn.Conv2d(64, 128, 3, padding=1, activation="relu")
        self.pool = nn.MaxPool2d(2)
        self.hidden = tilewright.nn.Linear(128 * 4 * 4, 512, activation="relu")
        self.head = tilewright.nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv2(self.conv1(x)))
        y: Tensor = self.head(self.hidden(x.flatten(1)))
        return y


class TorchCnn(nn.Module):
    """The same network as anyone would write it; its state_dict fits `Cnn` and the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(64, 128, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(128 * 4 * 4, 512)
        self.relu3 = nn.ReLU()
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu2(self.conv2(self.relu1(self.conv1(x)))))
        y: Tensor = self.head(self.relu3(self.hidden(x.flatten(1))))
        return y


def optimize(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


EXAMPLE = Example("CNN", Cnn, TorchCnn, optimize, images=True, epochs=10)

if __name__ == "__main__":
    sys.exit(run(EXAMPLE))
