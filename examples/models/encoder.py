"""A transformer encoder of BERT's shape: Devlin, Chang, Lee, Toutanova, "BERT: pre-training of deep bidirectional
transformers for language understanding", NAACL 2019 (arXiv:1810.04805); normalization after each sum, as in Vaswani
et al., "Attention is all you need", NIPS 2017 (arXiv:1706.03762)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tilewright.examples.models.initialization import build, damp


class Attention(nn.Module):
    """Self-attention of several heads, a projection each for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = scaled_dot_product_attention(query, key, value, mask)
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y


class EncoderLayer(nn.Module):
    """``x = norm(x + attention(x)); y = norm(x + project(gelu(expand(x))))``."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_dropout = nn.Dropout(dropout)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.expand = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.project = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        # Queries and keys of He's scale would let each token look at one other only.
        for layer in (self.attention.query, self.attention.key, self.attention.value):
            damp(layer, 0.7)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.attention_norm(x + self.attention_dropout(self.attention(x, mask)))
        y: Tensor = self.norm(x + self.dropout(self.project(self.gelu(self.expand(x)))))
        return y


class Encoder(nn.Module):
    """Token ids (N, tokens) to hidden states (N, tokens, width).

    ``forward(ids, mask=None)``: mask (N, tokens) is true where there is a token, false in the padding.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        hidden: int,
        vocabulary: int,
        positions: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden, dropout) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x: Tensor = self.dropout(self.norm(self.words(ids) + self.positions(places)))
        seen = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, seen)
        return x


def bert_base(
    *,
    layers: int = 12,
    width: int = 768,
    heads: int = 12,
    hidden: int = 3072,
    vocabulary: int = 30522,
    positions: int = 512,
    dropout: float = 0.1,
    seed: int = 0,
) -> Encoder:
    """An encoder of BERT-base's sizes, without segment embeddings and pooler: 109 million parameters."""
    return build(lambda: Encoder(layers, width, heads, hidden, vocabulary, positions, dropout), seed)
