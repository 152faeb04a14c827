"""The matrix products that every backend must get right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    name: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    a_layout: str = "row"
    b_layout: str = "row"
    bias: torch.dtype | None = None
    residual: torch.dtype | None = None
    residual_layout: str = "row"
    activation: str = "none"
    out_dtype: torch.dtype | None = None
    keep_preact: bool = False
    large: bool = False  # too slow for an interpreter

    def __str__(self) -> str:
        return f"{self.name}-{str(self.dtype).removeprefix('torch.')}"


def dense(shape: tuple[int, ...], dtype: torch.dtype, device: str, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape) * scale).to(dtype).to(device)


def _transposed(shape: tuple[int, ...], make: Callable[..., Tensor]) -> Tensor:
    return make((*shape[:-2], shape[-1], shape[-2])).mT


def _strided(shape: tuple[int, ...], make: Callable[..., Tensor]) -> Tensor:
    wide = tuple(2 * size for size in shape)
    return make(wide)[tuple(slice(None, None, 2) for _ in shape)]


def _padded(shape: tuple[int, ...], make: Callable[..., Tensor]) -> Tensor:
    return make((*shape[:-1], shape[-1] + 3))[..., : shape[-1]]


def _expanded_rows(shape: tuple[int, ...], make: Callable[..., Tensor]) -> Tensor:
    return make((*shape[:-2], 1, shape[-1])).expand(shape)


def _expanded_cols(shape: tuple[int, ...], make: Callable[..., Tensor]) -> Tensor:
    return make((*shape[:-1], 1)).expand(shape)


def _expanded_batch(shape: tuple[int, ...], make: Callable[..., Tensor]) -> Tensor:
    return make((1,) * (len(shape) - 2) + shape[-2:]).expand(shape)


def _permuted_batch(shape: tuple[int, ...], make: Callable[..., Tensor]) -> Tensor:
    # (batch, heads, rows, cols) stored as (batch, rows, heads, cols), as attention has it
    return make((*shape[:-3], shape[-2], shape[-3], shape[-1])).transpose(-3, -2)


def _offset(shape: tuple[int, ...], make: Callable[..., Tensor]) -> Tensor:
    # data that starts one element after an aligned address
    return make((1 + math.prod(shape),))[1:].view(shape)


LAYOUTS: dict[str, Callable[[tuple[int, ...], Callable[..., Tensor]], Tensor]] = {
    "row": lambda shape, make: make(shape),
    "col": _transposed,
    "strided": _strided,
    "padded": _padded,
    "expanded_rows": _expanded_rows,
    "expanded_cols": _expanded_cols,
    "expanded_batch": _expanded_batch,
    "permuted_batch": _permuted_batch,
    "offset": _offset,
}


def tensors(case: Case, device: str) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    scale = 1 / math.sqrt(max(case.a[-1], 1))
    a = LAYOUTS[case.a_layout](case.a, lambda shape: dense(shape, case.dtype, device))
    b = LAYOUTS[case.b_layout](case.b, lambda shape: dense(shape, case.dtype, device, scale))
    n = case.b[-1] if len(case.b) > 1 else 1
    bias = dense((n,), case.bias, device) if case.bias else None
    residual = None
    if case.residual:
        kind = case.residual
        shape = torch.matmul(a.float(), b.float()).shape
        if case.residual_layout in ("one_row", "one_col", "scalar"):
            sizes = {"one_row": (shape[-1],), "one_col": (*shape[:-1], 1), "scalar": ()}
            residual = dense(sizes[case.residual_layout], kind, device)
        else:
            residual = LAYOUTS[case.residual_layout](tuple(shape), lambda s: dense(s, kind, device))
    return a, b, bias, residual


# Around the register and cache tiles of every backend, primes, ones, and the empty ones.
_SHAPES = [
    (1, 1, 1),
    (1, 64, 10),
    (2, 3, 5),
    (7, 11, 13),
    (16, 16, 16),
    (15, 17, 16),
    (17, 31, 33),
    (32, 64, 48),
    (37, 61, 29),
    (64, 64, 64),
    (63, 65, 127),
    (1, 300, 257),
    (257, 40, 1),
    (5, 1, 9),
    (3, 130, 2),
]
_LARGE = [(129, 1030, 131), (1, 4099, 65), (8, 1025, 515), (65, 97, 513), (300, 3, 300)]
_EMPTY = [(0, 4, 5), (3, 0, 5), (3, 4, 0), (0, 0, 0)]

_RANKS = [
    ((6,), (6,)),
    ((6,), (6, 5)),
    ((4, 6), (6,)),
    ((3, 4, 6), (6, 5)),
    ((2, 3, 4, 6), (6, 5)),
    ((3, 4, 6), (3, 6, 5)),
    ((2, 1, 4, 6), (1, 3, 6, 5)),
    ((2, 3, 4, 6), (3, 6, 5)),
    ((6,), (3, 6, 5)),
    ((3, 4, 6), (6,)),
    ((2, 3, 4, 6), (6,)),
    ((2, 3, 2, 2, 4, 6), (3, 1, 2, 6, 5)),
    ((0, 4, 6), (6, 5)),
    ((2, 0, 4, 6), (2, 1, 6, 5)),
    ((3, 4, 0), (3, 0, 5)),
]


def cases() -> Iterator[Case]:
    for dtype in DTYPES:
        for m, k, n in _SHAPES + _LARGE + _EMPTY:
            large = (m, k, n) in _LARGE
            yield Case(f"{m}x{k}x{n}", (m, k), (k, n), dtype, large=large)
            if 0 not in (m, k, n):
                yield Case(
                    f"linear_{m}x{k}x{n}", (m, k), (k, n), dtype, b_layout="col", bias=dtype, large=large
                )
        for a, b in _RANKS:
            yield Case(f"rank_{a}_{b}".replace(" ", ""), a, b, dtype, bias=dtype, residual=dtype)
        for layout in LAYOUTS:
            if "batch" not in layout:
                yield Case(f"a_{layout}", (19, 37), (37, 23), dtype, a_layout=layout)
                yield Case(f"b_{layout}", (19, 37), (37, 23), dtype, b_layout=layout)
                yield Case(f"small_m_b_{layout}", (3, 37), (37, 50), dtype, b_layout=layout)
                yield Case(f"vector_b_{layout}", (41, 37), (37, 1), dtype, a_layout=layout, b_layout=layout)
            yield Case(f"batched_{layout}", (2, 3, 9, 20), (2, 3, 20, 18), dtype, layout, layout, bias=dtype)
            yield Case(
                f"residual_{layout}",
                (2, 3, 9, 20),
                (20, 18),
                dtype,
                residual=dtype,
                residual_layout=layout,
                activation="relu",
            )
        for layout in ("one_row", "one_col", "scalar"):
            yield Case(f"residual_{layout}", (9, 20), (20, 18), dtype, residual=dtype, residual_layout=layout)
        yield from epilogues(dtype)


def epilogues(dtype: torch.dtype) -> Iterator[Case]:
    plain = Case("epilogue", (21, 50), (50, 35), dtype)
    thin = replace(plain, name="thin_epilogue", a=(2, 50), b_layout="col")
    for base in (plain, thin):
        for activation in ("none", "relu", "gelu", "gelu_tanh", "silu"):
            for bias, residual in ((None, None), (dtype, None), (None, dtype), (torch.float32, dtype)):
                for keep in (False, True):
                    parts = [base.name, activation]
                    parts += ["bias"] * bool(bias) + ["residual"] * bool(residual) + ["preact"] * keep
                    yield replace(
                        base,
                        name="_".join(parts),
                        activation=activation,
                        bias=bias,
                        residual=residual,
                        keep_preact=keep,
                    )
        for out in DTYPES:
            for addend in DTYPES:
                name = f"{base.name}_to_{str(out)[6:]}_with_{str(addend)[6:]}"
                yield replace(base, name=name, out_dtype=out, bias=addend, residual=addend, activation="gelu")
