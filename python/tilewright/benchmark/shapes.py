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

from tilewright.errors import ArgumentError

ROWS = (1, 8, 32, 128, 512)


@dataclass(frozen=True, slots=True)
class Shape:
    """One problem of a list. `name` says which layer it is."""

    name: str
    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.name} {self.m}×{self.n}×{self.k}"


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


def _at_all_rows(layers: tuple[tuple[str, int, int], ...]) -> tuple[Shape, ...]:
    return tuple(Shape(name, m, n, k) for name, n, k in layers for m in ROWS)


LISTS: dict[str, tuple[Shape, ...]] = {
    "bert": _at_all_rows(_BERT_LAYERS),
    "llama": _at_all_rows(_LLAMA_LAYERS),
    "resnet": _at_all_rows((("resnet classifier", 1000, 2048),)),
    "squares": tuple(Shape("square", size, size, size) for size in (256, 384, 512, 768, 1024, 1536, 2048)),
    "odd": (
        Shape("odd primes", 127, 131, 137),
        Shape("odd primes", 509, 521, 523),
        Shape("odd primes", 1021, 1031, 1033),
        Shape("odd tile-1", 63, 255, 127),
        Shape("odd tile+1", 65, 257, 129),
        Shape("odd tile+1", 129, 513, 1025),
        Shape("odd one row", 1, 1009, 2003),
        Shape("odd one column", 1009, 1, 2003),
        Shape("odd short K", 997, 1013, 7),
        Shape("odd long K", 13, 17, 65537),
    ),
}
"""Every list by name."""


def named(lists: str) -> tuple[Shape, ...]:
    """The shapes of a list, of several separated by commas, or of ``all``.

    Raises:
        ArgumentError: for a name that is none of them.
    """
    found: list[Shape] = []
    for name in lists.split(","):
        name = name.strip()
        if name != "all" and name not in LISTS:
            raise ArgumentError(
                f"shapes is {name!r}; expected one or more of {', '.join(LISTS)}, separated by commas, or all"
            )
        for shape in [s for each in LISTS.values() for s in each] if name == "all" else LISTS[name]:
            if shape not in found:
                found.append(shape)
    return tuple(found)
