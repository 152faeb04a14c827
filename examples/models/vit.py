"""Vision transformer: Dosovitskiy et al., "An image is worth 16x16 words: transformers for image recognition at
scale", ICLR 2021 (arXiv:2010.11929)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tilewright.examples.models.initialization import build, damp


class Attention(nn.Module):
    """Self-attention of several heads; query, key and value come from one projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        damp(self.project, 0.7)
        damp(self.output, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value)
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y


class VitLayer(nn.Module):
    """``x = x + attention(norm(x)); y = x + mlp(norm(x))``."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        damp(self.mlp[2], 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class Vit(nn.Module):
    """Images (N, 3, image_size, image_size) to scores (N, num_classes)."""

    def __init__(
        self, layers: int, width: int, heads: int, hidden: int, patch: int, image_size: int, num_classes: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, (image_size // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*(VitLayer(width, heads, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        y: Tensor = self.head(self.norm(self.layers(x))[:, 0])
        return y


def vit(
    *,
    layers: int = 12,
    width: int = 768,
    heads: int = 12,
    hidden: int = 3072,
    patch: int = 16,
    image_size: int = 224,
    num_classes: int = 1000,
    seed: int = 0,
) -> Vit:
    """ViT-B/16: 86.6 million parameters."""
    return build(lambda: Vit(layers, width, heads, hidden, patch, image_size, num_classes), seed)
