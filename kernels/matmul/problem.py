"""MatmulProblem: everything about a matrix product that a choice of kernel may depend on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.kernels.interface import DeviceKind

Layout = Literal["row", "col", "strided"]
Precision = Literal["ieee", "tf32"]


@dataclass(frozen=True, slots=True)
class MatmulProblem:
    """``y = act(A·B + bias + residual)`` over a batch of matrices.

    The geometry is canonical: vectors have become matrices with one row or column, leading dimensions that
    can be are folded into M, and the batch dimensions that remain are merged as far as every operand's
    strides allow. Strides are in elements, zero where an operand is broadcast. The output (and the
    pre-activation, if kept) is always row-major and contiguous, so it needs no strides.

    A is (*batch, m, k), B is (*batch, k, n), bias is (n,), residual is (*batch, m, n).
    """

    device: DeviceKind
    m: int
    n: int
    k: int
    batch: tuple[int, ...]
    a_strides: tuple[int, ...]  # (*batch, m, k)
    b_strides: tuple[int, ...]  # (*batch, k, n)
    bias_stride: int  # 0 where there is no bias
    residual_strides: tuple[int, ...] | None  # (*batch, m, n)
    out_shape: tuple[int, ...]  # what the caller sees
    dtype: torch.dtype  # of A and B
    out_dtype: torch.dtype  # of y and of the pre-activation
    bias_dtype: torch.dtype | None
    residual_dtype: torch.dtype | None
    activation: str
    keep_preact: bool  # also return z = A·B + bias + residual, rounded to out_dtype
    precision: Precision  # tf32 admits tf32 matrix units for fp32 operands
    deterministic: bool
    threads: int  # CPU threads to use; 0 on GPUs
    alignment: int  # GPUs: bytes (16 at most) that divide every data pointer; 0 on CPUs
    frozen_b: bool = False  # the caller promises that B never changes, so that it may be packed once

    @property
    def batch_count(self) -> int:
        return math.prod(self.batch)

    @property
    def a_layout(self) -> Layout:
        return _layout(*self.a_strides[-2:])

    @property
    def b_layout(self) -> Layout:
        return _layout(*self.b_strides[-2:])

    def flops(self) -> int:
        """Multiply-adds count as two; the epilogue is not counted."""
        return 2 * self.batch_count * self.m * self.n * self.k

    def bytes(self) -> int:
        """The fewest bytes that main memory must move: each operand read once, each output written once."""
        total = self.dtype.itemsize * (
            _distinct(self.batch, self.a_strides) * self.m * self.k
            + _distinct(self.batch, self.b_strides) * self.k * self.n
        )
        if self.bias_dtype is not None:
            total += self.bias_dtype.itemsize * self.n
        if self.residual_dtype is not None and self.residual_strides is not None:
            sizes = (*self.batch, self.m, self.n)
            total += self.residual_dtype.itemsize * _distinct(sizes, self.residual_strides)
        outputs = 2 if self.keep_preact else 1
        return total + outputs * self.out_dtype.itemsize * self.batch_count * self.m * self.n

    def family(self) -> str:
        """What must agree for a stored choice to be considered: all but M and the batch, which are bucketed."""
        epilogue = [
            name
            for name, present in (
                (f"bias:{DTYPE_NAMES.get(self.bias_dtype)}" if self.bias_dtype else "", self.bias_dtype),
                (
                    f"residual:{DTYPE_NAMES.get(self.residual_dtype)}" if self.residual_dtype else "",
                    self.residual_dtype,
                ),
                (self.activation, self.activation != "none"),
                ("preact", self.keep_preact),
            )
            if present
        ]
        parts = [
            f"{DTYPE_NAMES.get(self.dtype)}->{DTYPE_NAMES.get(self.out_dtype)}",
            f"n{self.n}",
            f"k{self.k}",
            f"a:{self.a_layout}{_broadcast_mark(self.batch, self.a_strides)}",
            f"b:{self.b_layout}{_broadcast_mark(self.batch, self.b_strides)}",
            "+".join(epilogue) or "plain",
            self.precision,
        ]
        if not self.deterministic:
            parts.append("nondeterministic")
        if self.device == "cpu":
            parts.append(f"t{self.threads}")
        else:
            parts.append(f"align{self.alignment}")
        if self.frozen_b:
            parts.append("frozen")
        return " ".join(parts)

    def describe(self) -> str:
        """One line for people: sizes, dtypes, layouts, epilogue."""
        batch = "".join(f"{size}x" for size in self.batch)
        return f"matmul {batch}{self.m}x{self.n}x{self.k} (MxNxK) {self.family()}"

    @classmethod
    def from_tensors(
        cls,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        activation: str = "none",
        out_dtype: torch.dtype | None = None,
        keep_preact: bool = False,
        precision: Precision = "ieee",
        deterministic: bool = True,
        threads: int = 0,
        frozen_b: bool = False,
    ) -> MatmulProblem:
        """The problem of tensors that were checked before. Reads metadata and addresses, never values."""
        a_shape, a_strides = list(a.shape), list(a.stride())
        b_shape, b_strides = list(b.shape), list(b.stride())
        out_shape = output_shape(a_shape, b_shape)
        if len(a_shape) == 1:
            a_shape.insert(0, 1)
            a_strides.insert(0, 0)
        if len(b_shape) == 1:
            b_shape.append(1)
            b_strides.append(0)
        m, k, n = a_shape[-2], a_shape[-1], b_shape[-1]
        batch = list(torch.broadcast_shapes(a_shape[:-2], b_shape[:-2]))
        a_strides = _expand(a_shape[:-2], a_strides[:-2], batch) + a_strides[-2:]
        b_strides = _expand(b_shape[:-2], b_strides[:-2], batch) + b_strides[-2:]
        r_strides: list[int] | None = None
        if residual is not None:
            full = [*batch, m, n]
            # The residual was written against out_shape, which lacks the dimension that a vector operand dropped.
            r_shape, r_strides_in = list(residual.shape), list(residual.stride())
            if b.ndim == 1 and r_shape:
                r_shape.append(1)
                r_strides_in.append(0)
            if a.ndim == 1 and len(r_shape) > 1:
                r_shape.insert(-1, 1)
                r_strides_in.insert(-1, 0)
            r_strides = _expand(r_shape, r_strides_in, full)

        operands = [a_strides, b_strides] + ([r_strides] if r_strides is not None else [])
        batch, operands = _merge_batch(batch, operands)
        # B without a batch: the leading dimensions of A are more rows of one product.
        if len(batch) == 1 and operands[1][0] == 0:
            rows_fold = m == 1 or operands[0][0] == m * operands[0][1]
            residual_folds = len(operands) < 3 or m == 1 or operands[2][0] == m * operands[2][1]
            if rows_fold and residual_folds:
                for strides in (operands[0], *operands[2:]):
                    if m == 1:
                        strides[1] = strides[0]
                    del strides[0]
                del operands[1][0]
                m, batch = m * batch[0], []
        a_strides, b_strides = operands[0], operands[1]
        a_strides[-2:] = _plain(m, k, *a_strides[-2:])
        b_strides[-2:] = _plain(k, n, *b_strides[-2:])
        alignment = 0
        if a.device.type != "cpu":
            address = a.data_ptr() | b.data_ptr() | 16
            for extra in (bias, residual):
                address |= extra.data_ptr() if extra is not None else 0
            alignment = address & -address
        return cls(
            device="cpu" if a.device.type == "cpu" else "cuda",
            m=m,
            n=n,
            k=k,
            batch=tuple(batch),
            a_strides=tuple(a_strides),
            b_strides=tuple(b_strides),
            bias_stride=bias.stride(0) if bias is not None else 0,
            residual_strides=tuple(operands[2]) if len(operands) > 2 else None,
            out_shape=tuple(out_shape),
            dtype=a.dtype,
            out_dtype=out_dtype or a.dtype,
            bias_dtype=bias.dtype if bias is not None else None,
            residual_dtype=residual.dtype if residual is not None else None,
            activation=activation,
            keep_preact=keep_preact,
            precision=precision,
            deterministic=deterministic,
            threads=threads,
            alignment=alignment,
            frozen_b=frozen_b,
        )


def output_shape(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """The shape of ``torch.matmul`` of operands with these shapes."""
    shape = list(torch.broadcast_shapes(tuple(a[:-2]), tuple(b[:-2])))
    if len(a) > 1:
        shape.append(a[-2])
    if len(b) > 1:
        shape.append(b[-1])
    return shape


def _layout(row_stride: int, col_stride: int) -> Layout:
    if col_stride == 1:
        return "row"
    return "col" if row_stride == 1 else "strided"


def _expand(shape: list[int], strides: list[int], target: list[int]) -> list[int]:
    """Strides of a tensor seen with shape `target`: zero wherever it is broadcast (or has size 1)."""
    missing = len(target) - len(shape)
    return [0] * missing + [0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True)]


def _plain(rows: int, cols: int, row_stride: int, col_stride: int) -> tuple[int, int]:
    """Strides of size-1 dimensions carry no meaning: give them those of the plainest layout."""
    if cols == 1:
        col_stride = 1 if row_stride != 1 or rows == 1 else rows
    if rows == 1:
        row_stride = cols if col_stride == 1 else 1
    return row_stride, col_stride


def _merge_batch(batch: list[int], operands: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Drops batch dimensions of size 1 and merges neighbours that every operand walks evenly."""
    keep = [i for i, size in enumerate(batch) if size != 1]
    sizes = [batch[i] for i in keep]
    walks = [[strides[i] for i in keep] for strides in operands]
    for i in range(len(sizes) - 1, 0, -1):
        if all(walk[i - 1] == sizes[i] * walk[i] for walk in walks):
            sizes[i - 1 : i + 1] = [sizes[i - 1] * sizes[i]]
            for walk in walks:
                walk[i - 1 : i + 1] = [walk[i]]
    merged = [walk + strides[-2:] for walk, strides in zip(walks, operands, strict=True)]
    return sizes, merged


def _distinct(sizes: Sequence[int], strides: Sequence[int]) -> int:
    """How many different elements a walk with these leading sizes touches: broadcast dimensions count once."""
    return math.prod(size for size, stride in zip(sizes, strides, strict=False) if stride != 0)


def _broadcast_mark(batch: Sequence[int], strides: Sequence[int]) -> str:
    if not batch:
        return ""
    return "*" + "".join("0" if stride == 0 else "1" for stride in strides[: len(batch)])
