"""The products with sparse weights that every backend must get right."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tilewright.kernels.sparse_matmul.operand import SparseOperand
from tilewright.sparse import compress

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FORMATS: tuple[tuple[str, tuple[int, int] | None], ...] = (
    ("2:4", None),
    ("bitmap", None),
    ("bsr", (1, 16)),
    ("bsr", (4, 16)),
    ("bsr", (16, 4)),
    ("bsr", (32, 32)),
    ("bsr", (5, 7)),
    ("bsr", (4, 4)),
)
SPARSITIES = (0.0, 0.5, 0.9, 1.0, "one_dense_row", "one_empty_row")


@dataclass(frozen=True)
class Case:
    m: int
    n: int
    k: int
    form: str
    block: tuple[int, int] | None = None
    sparsity: float | str = 0.9
    dtype: torch.dtype = torch.float32
    x_layout: str = "row"
    bias: torch.dtype | None = None
    residual: torch.dtype | None = None
    residual_layout: str = "row"
    activation: str = "none"
    keep_preact: bool = False
    frozen: bool = False

    def __str__(self) -> str:
        block = "" if self.block is None else "{}x{}".format(*self.block)
        parts = [f"{self.m}x{self.n}x{self.k}", self.form + block, str(self.sparsity), str(self.dtype)[6:]]
        parts += [self.x_layout] * (self.x_layout != "row")
        parts += [f"bias_{str(self.bias)[6:]}"] * (self.bias is not None)
        parts += [f"residual_{str(self.residual)[6:]}_{self.residual_layout}"] * (self.residual is not None)
        parts += [self.activation] * (self.activation != "none")
        return "-".join(parts + ["preact"] * self.keep_preact + ["frozen"] * self.frozen)


def mask_of(case: Case) -> Tensor:
    """What is kept, as far as the format has a choice: whole blocks, two of four."""
    n, k = case.n, case.k
    r, c = case.block or (1, 1)
    down, across = -(-n // r), -(-k // c)
    if case.sparsity == "one_dense_row":
        blocks = torch.zeros(down, across, dtype=torch.bool)
        blocks[down // 2 : down // 2 + 1] = True
    elif case.sparsity == "one_empty_row":
        blocks = torch.rand(down, across) < 0.5
        blocks[down // 2 : down // 2 + 1] = False
    else:
        blocks = torch.rand(down, across) >= float(case.sparsity)
    mask = blocks.repeat_interleave(r, 0).repeat_interleave(c, 1)[:n, :k]
    if case.form == "2:4" and mask.numel():
        wide = torch.nn.functional.pad(mask, (0, -k % 4)).view(n, -1, 4)
        score = torch.rand(wide.shape) * wide
        best = torch.zeros_like(wide).scatter(2, score.topk(2, 2).indices, True)
        mask = (wide & best).view(n, -1)[:, :k]
    return mask


def tensors(case: Case, device: str) -> tuple[Tensor, SparseOperand, Tensor | None, Tensor | None]:
    mask = mask_of(case)
    length = max(1.0, float(mask.sum()) / max(1, case.n))
    dense = (torch.randn(case.n, case.k) / math.sqrt(length)).to(case.dtype)
    weight = compress(dense, case.form, block=case.block, mask=mask).to(device)
    x = _laid_out((case.m, case.k), case.x_layout).to(case.dtype).to(device)
    bias = None if case.bias is None else torch.randn(case.n).to(case.bias).to(device)
    residual = None
    if case.residual is not None:
        residual = _laid_out((case.m, case.n), case.residual_layout).to(case.residual).to(device)
    return x, SparseOperand(case.form, weight.buffers, case.n, case.k), bias, residual


def _laid_out(shape: tuple[int, int], layout: str) -> Tensor:
    rows, columns = shape
    if layout == "col":
        return torch.randn(columns, rows).t()
    if layout == "strided":
        return torch.randn(2 * rows, 2 * columns)[::2, ::2]
    if layout == "padded":
        return torch.randn(rows, columns + 3)[:, :columns]
    if layout == "one_row":
        return torch.randn(1, columns).expand(shape)
    if layout == "one_col":
        return torch.randn(rows, 1).expand(shape)
    if layout == "offset":
        return torch.randn(1 + rows * columns)[1:].view(shape)
    return torch.randn(shape)


# Around register tiles and words of a bitmap, primes, ones; N and K that no block divides.
_SHAPES = [
    (1, 1, 1),
    (1, 64, 64),
    (2, 16, 65),
    (7, 33, 127),
    (16, 37, 48),
    (17, 128, 100),
    (65, 70, 193),
    (1, 50, 300),
]
_EMPTY = [(0, 8, 8), (3, 0, 8), (3, 8, 0), (0, 0, 0)]


def cases() -> Iterator[Case]:
    for form, block in FORMATS:
        for dtype in DTYPES:
            for m, n, k in _SHAPES:
                for sparsity in SPARSITIES:
                    yield Case(m, n, k, form, block, sparsity, dtype)
            for m, n, k in _EMPTY:
                yield Case(m, n, k, form, block, 0.5, dtype, bias=dtype)
        plain = Case(9, 35, 77, form, block, 0.6)
        for layout in ("col", "strided", "padded", "one_row", "offset"):
            yield replace(plain, x_layout=layout)
        for layout in ("row", "col", "strided", "padded", "one_row", "one_col"):
            yield replace(plain, residual=torch.float32, residual_layout=layout, activation="relu")
        for base in (plain, replace(plain, m=1), replace(plain, frozen=True)):
            for activation in ("none", "relu", "gelu", "gelu_tanh", "silu"):
                for bias, residual in ((torch.float32, None), (torch.float32, torch.bfloat16)):
                    for keep in (False, True):
                        yield replace(
                            base, activation=activation, bias=bias, residual=residual, keep_preact=keep
                        )
        for dtype in DTYPES:
            yield replace(
                plain, dtype=dtype, bias=torch.float32, residual=dtype, activation="gelu", frozen=True
            )
        yield replace(plain, dtype=torch.float64, bias=torch.float64, residual=torch.float64)
