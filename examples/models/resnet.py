"""ResNet: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016 (arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from tilewright.examples.models.initialization import build, damp

_BRANCH_GAIN, _SHORTCUT_GAIN = 0.25, 0.7
"""Of what is added up: a sum grows with the depth, and the ReLU behind it halves it no more."""


class Block(nn.Module):
    """``y = relu(branch(x) + shortcut(x))``; the shortcut is a 1×1 convolution where the shape changes."""

    expansion: ClassVar[int]
    """Channels of the output, as a multiple of the block's width."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != outputs:
            norm = nn.BatchNorm2d(outputs)
            damp(norm, _SHORTCUT_GAIN)
            self.shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), norm)
        self.relu = nn.ReLU(inplace=True)

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return y


class BasicBlock(Block):
    """Two 3×3 convolutions."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__(channels, width, stride)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        damp(self.bn2, _BRANCH_GAIN)

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        y: Tensor = self.bn2(self.conv2(x))
        return y


class Bottleneck(Block):
    """A 3×3 convolution between two 1×1; the stride is the 3×3 convolution's, as is usual today."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__(channels, width, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        damp(self.bn3, _BRANCH_GAIN)

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        y: Tensor = self.bn3(self.conv3(x))
        return y


class ResNet(nn.Module):
    """Images (N, 3, H, W) to scores (N, num_classes); stage i has ``width·2ⁱ`` channels (times the expansion)."""

    def __init__(self, block: type[Block], blocks: Sequence[int], num_classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = width
        stages: list[nn.Module] = []
        for stage, count in enumerate(blocks):
            layers: list[nn.Module] = []
            for index in range(count):
                layers.append(block(channels, width << stage, 2 if stage and not index else 1))
                channels = (width << stage) * block.expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.pool(self.stages(self.stem(x))).flatten(1))
        return y


def resnet18(
    *, num_classes: int = 1000, width: int = 64, blocks: Sequence[int] = (2, 2, 2, 2), seed: int = 0
) -> ResNet:
    """ResNet-18: 11.7 million parameters; images of any size from 1×1, 224×224 usually."""
    return build(lambda: ResNet(BasicBlock, blocks, num_classes, width), seed)


def resnet50(
    *, num_classes: int = 1000, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3), seed: int = 0
) -> ResNet:
    """ResNet-50: 25.6 million parameters; images of any size from 1×1, 224×224 usually."""
    return build(lambda: ResNet(Bottleneck, blocks, num_classes, width), seed)
