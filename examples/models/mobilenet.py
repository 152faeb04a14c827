"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: inverted residuals and linear bottlenecks",
CVPR 2018 (arXiv:1801.04381), table 2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tilewright.examples.models.initialization import build, damp

_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, stride of the first block."""


def _convolution(
    channels: int, outputs: int, kernel: int, stride: int, groups: int, activation: type[nn.Module]
) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), activation()]


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, 1×1 projection without an activation; x is added where the shape stays."""

    def __init__(
        self, channels: int, outputs: int, expansion: int, stride: int, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        inner = channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers = _convolution(channels, inner, 1, 1, 1, activation)
            damp(layers[1], 0.7)  # its input has passed no ReLU, which would have halved it
        layers += _convolution(inner, inner, 3, stride, inner, activation)
        layers += [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.residual = stride == 1 and channels == outputs
        if self.residual:
            damp(layers[-1], 0.25)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Images (N, 3, H, W) to scores (N, num_classes); each stage has `width` times its usual channels."""

    def __init__(
        self,
        num_classes: int,
        width: float,
        stages: Sequence[tuple[int, int, int, int]],
        activation: type[nn.Module],
    ) -> None:
        super().__init__()
        channels = _scaled(32, width)
        layers: list[nn.Module] = _convolution(3, channels, 3, 2, 1, activation)
        for expansion, usual, blocks, stride in stages:
            for index in range(blocks):
                outputs = _scaled(usual, width)
                layers.append(
                    InvertedResidual(channels, outputs, expansion, 1 if index else stride, activation)
                )
                channels = outputs
        last = _scaled(1280, max(1.0, width))
        self.features = nn.Sequential(*layers, *_convolution(channels, last, 1, 1, 1, activation))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return y


def _scaled(channels: int, width: float) -> int:
    """A multiple of 8, as near to ``channels·width`` as it can be."""
    return max(8, round(channels * width / 8) * 8)


def mobilenet_v2(
    *,
    num_classes: int = 1000,
    width: float = 1.0,
    stages: Sequence[tuple[int, int, int, int]] = _STAGES,
    activation: type[nn.Module] = nn.ReLU6,
    seed: int = 0,
) -> MobileNetV2:
    """MobileNetV2: 3.5 million parameters; images of any size, 224×224 usually.

    Args:
        width: the channels of every stage, as a multiple of the paper's.
        stages: expansion, channels, blocks and stride of the first block, each.
        activation: the paper's is ReLU6, which no kernel of tilewright's fuses; ``torch.nn.ReLU`` is fused.
    """
    return build(lambda: MobileNetV2(num_classes, width, stages, activation), seed)
