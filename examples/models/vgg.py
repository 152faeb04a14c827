"""VGG: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015
(arXiv:1409.1556), configuration A."""

from __future__ import annotations

from torch import Tensor, nn

from tilewright.examples.models.initialization import build

_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of each 3×3 convolution as multiples of the width; pooling halves the image after each stage."""


class Vgg(nn.Module):
    """Images (N, 3, image_size, image_size) to scores (N, num_classes)."""

    def __init__(self, num_classes: int, width: int, hidden: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in _STAGES:
            for multiple in stage:
                layers += [nn.Conv2d(channels, width * multiple, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width * multiple
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * (image_size // 32) ** 2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.features(x).flatten(1))
        return y


def vgg11(
    *, num_classes: int = 1000, width: int = 64, hidden: int = 4096, image_size: int = 224, seed: int = 0
) -> Vgg:
    """VGG-11: 133 million parameters, 103 of them in the first fully connected layer; `image_size` is 32 or more."""
    return build(lambda: Vgg(num_classes, width, hidden, image_size), seed)
