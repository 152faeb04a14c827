"""Models small enough for a test, as users write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def settle(model: Any) -> Any:
    """In eval mode, with BatchNorms whose statistics matter."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.3, 2.0)
            if module.affine:
                nn.init.normal_(module.weight, 1.0, 0.2)
                nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def images(batch: int = 2, channels: int = 3, size: int = 9) -> Tensor:
    return torch.randn(batch, channels, size, size)


class Block(nn.Module):
    """The basic block of a ResNet as it is usually written: one ReLU, used behind a BatchNorm and behind the sum."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Any:
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Net(nn.Module):
    """A stem in a Sequential, two blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(), nn.Linear(16, 5), nn.GELU("tanh")
        )

    def forward(self, x: Tensor) -> Any:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Features(nn.Module):
    """Collects what is between the layers, as perceptual losses do."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for layer in self.features:
            x = layer(x)
            found.append(x.clone())
        return found


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 8)
        self.act = nn.GELU()
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Any:
        return self.head(self.act(self.mix(self.words(ids))))


class Twice(nn.Module):
    """One convolution called from three places, whose results go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Any:
        x = self.relu(self.bn(self.conv(x)))
        y = self.conv(x)
        return self.gelu(self.conv(y)) + self.bn(y)


class Functional(nn.Module):
    """Activations and sums as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.other = nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect")

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.conv(x)) + torch.nn.functional.silu(self.other(x))


class Branching(nn.Module):
    """What follows depends on the data, on an argument and on attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.gelu = nn.GELU()
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.early = False
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, raw: Tensor | None = None) -> Any:
        h = self.conv(x)
        if self.early:
            return h
        h = self.bn(h)
        if h.sum() > 0:  # noqa: SIM108
            h = self.relu(h)
        else:
            h = self.gelu(h)
        g = self.conv(h)
        self.seen = [g]
        g = self.bn(g)
        k = self.conv(g)
        y = self.relu(k)
        if raw is not None:
            y = y + k
        return self.inner(y)


class Noisy(nn.Module):
    """Draws random numbers in every mode, and drops in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.act(self.first(x + torch.rand(5, 7, dtype=torch.float32).to(x.dtype)))
        return self.last(self.drop(x))


class Counting(nn.Module):
    """Has a buffer that every call changes."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 7)
        self.act = nn.ReLU()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.act(self.layer(x))


def sequential() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2, padding=2),
        nn.BatchNorm2d(8, affine=False),
        nn.Conv2d(8, 12, 1, padding_mode="circular"),
        nn.SiLU(inplace=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 5 * 5, 10),
    )


MODELS: dict[str, tuple[Any, Any]] = {
    "sequential": (sequential, images),
    "net": (Net, images),
    "block": (Block, lambda: images(channels=8)),
    "features": (Features, images),
    "tied": (Tied, lambda: torch.randint(11, (3, 4))),
    "twice": (Twice, lambda: images(channels=4)),
    "functional": (Functional, lambda: images(channels=4)),
    "branching": (Branching, lambda: images(channels=4)),
    "noisy": (Noisy, lambda: torch.randn(5, 7)),
    "counting": (Counting, lambda: torch.randn(5, 7)),
    "a convolution": (lambda: nn.Conv2d(3, 4, 3), images),
    "a linear layer": (lambda: nn.Linear(9, 4), images),
    "others only": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()), lambda: torch.randn(2, 3, 9)),
}
"""Name -> what makes the model, what makes its input."""
