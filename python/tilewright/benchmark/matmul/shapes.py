"""Published lists of matrix products: y (M×N) = x (M×K) · weight (K×N).

Sources:
    bert     BERT-base: hidden size 768, feed-forward 3072 (Devlin et al., 2018, arXiv:1810.04805, section 3)
    llama    Llama-7B: hidden size 4096, feed-forward 11008 (Touvron et al., 2023, arXiv:2302.13971, table 2;
             11008 is 2/3 of 4·4096 rounded up to a multiple of 256, as in the published model code)
    resnet   the classifier of ResNet-50, 2048 features to 1000 classes (He et al., 2015, arXiv:1512.03385)
    squares  M = N = K from 256 to 2048, the sizes that GEMM papers plot
    odd      primes, one more or less than usual tiles, a single row, column or K: nothing divides anything

Rows (tokens or images) of the first three: 1, 8, 32, 128, 512.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

LAYOUTS = ("linear", "matmul")
"""Of the weight: (N, K) as `torch.nn.Linear` keeps it, (K, N) as `torch.matmul` takes it."""

ROWS = (1, 8, 32, 128, 512)


@dataclass(frozen=True, slots=True)
class MatmulShape:
    """One problem of a list. `name` says which layer it is."""

    spelling: ClassVar[str] = "M×N×K"
    varies: ClassVar[str] = "m"

    name: str
    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.name} {self.m}×{self.n}×{self.k}"

    def elements(self) -> int:
        """Of both operands and the result."""
        return self.m * self.k + self.n * self.k + self.m * self.n


_BERT_LAYERS = (
    ("bert qkv", 3 * 768, 768),  # query, key and value in one product
    ("bert attention out", 768, 768),
    ("bert ffn up", 3072, 768),
    ("bert ffn down", 768, 3072),
)
_LLAMA_LAYERS = (
    ("llama qkv", 3 * 4096, 4096),
    ("llama attention out", 4096, 4096),
    ("llama ffn up", 11008, 4096),
    ("llama ffn down", 4096, 11008),
)


def _at_all_rows(layers: tuple[tuple[str, int, int], ...]) -> tuple[MatmulShape, ...]:
    return tuple(MatmulShape(name, m, n, k) for name, n, k in layers for m in ROWS)


LISTS: dict[str, tuple[MatmulShape, ...]] = {
    "bert": _at_all_rows(_BERT_LAYERS),
    "llama": _at_all_rows(_LLAMA_LAYERS),
    "resnet": _at_all_rows((("resnet classifier", 1000, 2048),)),
    "squares": tuple(
        MatmulShape("square", size, size, size) for size in (256, 384, 512, 768, 1024, 1536, 2048)
    ),
    "odd": (
        MatmulShape("odd primes", 127, 131, 137),
        MatmulShape("odd primes", 509, 521, 523),
        MatmulShape("odd primes", 1021, 1031, 1033),
        MatmulShape("odd tile-1", 63, 255, 127),
        MatmulShape("odd tile+1", 65, 257, 129),
        MatmulShape("odd tile+1", 129, 513, 1025),
        MatmulShape("odd one row", 1, 1009, 2003),
        MatmulShape("odd one column", 1009, 1, 2003),
        MatmulShape("odd short K", 997, 1013, 7),
        MatmulShape("odd long K", 13, 17, 65537),
    ),
}
"""Every list by name."""
