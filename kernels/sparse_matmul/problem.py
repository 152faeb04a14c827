"""SparseMatmulProblem: everything about a product with a sparse weight that a choice of kernel may depend on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.kernels.interface import DeviceKind
from tilewright.kernels.sparse_matmul.formats import block_of, ceil
from tilewright.kernels.sparse_matmul.operand import SparseOperand

Precision = Literal["ieee", "tf32"]


@dataclass(frozen=True, slots=True)
class SparseMatmulProblem:
    """``y = act(x·Wᵀ + bias + residual)``: x (m, k), W (n, k) stored sparse, bias (n,), residual (m, n).

    Leading dimensions of x were folded into m. Strides are in elements, zero where the residual is broadcast. The
    output (and the pre-activation, if kept) is (m, n), contiguous.
    """

    device: DeviceKind
    m: int
    n: int
    k: int
    format: str  # 2:4, bsr, bitmap
    block: tuple[int, int]  # rows and columns of a block of bsr, else (1, 1)
    kept: int  # stored values, padding and stored zeros included
    x_strides: tuple[int, int]
    bias_stride: int  # 0 where there is no bias
    residual_strides: tuple[int, int] | None
    dtype: torch.dtype  # of x, the values, y and the pre-activation
    bias_dtype: torch.dtype | None
    residual_dtype: torch.dtype | None
    activation: str
    keep_preact: bool  # also return z = x·Wᵀ + bias + residual, rounded to dtype
    precision: Precision
    deterministic: bool
    threads: int  # CPU threads to use; 0 on GPUs
    alignment: int  # GPUs: bytes (16 at most) that divide every data pointer; 0 on CPUs
    frozen: bool  # the weight is certain not to change while its operand lives: forms of it are worth keeping

    batch_count = 1

    @property
    def out_shape(self) -> tuple[int, int]:
        return self.m, self.n

    @property
    def out_dtype(self) -> torch.dtype:
        return self.dtype

    @property
    def density(self) -> float:
        """The part of W that is stored."""
        return self.kept / (self.n * self.k) if self.n * self.k else 0.0

    def flops(self) -> int:
        """Multiply-adds of stored values count as two; the epilogue is not counted."""
        return 2 * self.m * self.kept

    def dense_flops(self) -> int:
        """Of the same product with a dense weight."""
        return 2 * self.m * self.n * self.k

    def weight_bytes(self) -> int:
        """Of the stored buffers."""
        values = self.kept * self.dtype.itemsize
        if self.format == "2:4":
            return values + self.n * ceil(ceil(self.k, 4), 2)
        if self.format == "bsr":
            r, c = self.block
            return values + 4 * (self.kept // (r * c) + ceil(self.n, r) + 1)
        return values + 8 * self.n * ceil(self.k, 64) + 4 * (self.n + 1)

    def bytes(self) -> int:
        """The fewest bytes that main memory must move: each operand read once, each output written once."""
        rows = self.m if self.x_strides[0] else min(self.m, 1)
        total = self.weight_bytes() + rows * self.k * self.dtype.itemsize
        if self.bias_dtype is not None:
            total += self.bias_dtype.itemsize * self.n
        if self.residual_dtype is not None and self.residual_strides is not None:
            sizes = zip((self.m, self.n), self.residual_strides, strict=True)
            total += self.residual_dtype.itemsize * math.prod(size for size, stride in sizes if stride)
        return total + (2 if self.keep_preact else 1) * self.dtype.itemsize * self.m * self.n

    def family(self) -> str:
        """What must agree for a stored choice to be considered: all but M; density only to a quarter octave."""
        epilogue = []
        if self.bias_dtype is not None:
            epilogue.append(f"bias:{DTYPE_NAMES.get(self.bias_dtype)}")
        if self.residual_dtype is not None:
            epilogue.append(f"residual:{DTYPE_NAMES.get(self.residual_dtype)}")
        if self.activation != "none":
            epilogue.append(self.activation)
        if self.keep_preact:
            epilogue.append("preact")
        parts = [
            self.format + (f" {self.block[0]}x{self.block[1]}" if self.format == "bsr" else ""),
            density_bucket(self.density),
            DTYPE_NAMES.get(self.dtype, str(self.dtype)),
            f"n{self.n}",
            f"k{self.k}",
            f"x:{'row' if self.x_strides[1] == 1 else 'col' if self.x_strides[0] == 1 else 'strided'}",
            "+".join(epilogue) or "plain",
            self.precision,
        ]
        if not self.deterministic:
            parts.append("nondeterministic")
        parts.append(f"t{self.threads}" if self.device == "cpu" else f"align{self.alignment}")
        if self.frozen:
            parts.append("frozen")
        return " ".join(parts)

    def describe(self) -> str:
        """One line for people: sizes, format, density, dtypes, epilogue."""
        return f"sparse_matmul {self.m}x{self.n}x{self.k} (MxNxK) {100 * self.density:.3g} % kept: {self.family()}"

    @classmethod
    def from_tensors(
        cls,
        x: Tensor,
        weight: SparseOperand,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        activation: str = "none",
        keep_preact: bool = False,
        precision: Precision = "ieee",
        deterministic: bool = True,
        threads: int = 0,
        frozen: bool = False,
    ) -> SparseMatmulProblem:
        """The problem of tensors that were checked before: x (m, k), residual (m, n). Reads metadata, never values."""
        m, k = x.shape
        alignment = 0
        if x.device.type != "cpu":
            address = 16
            for tensor in (x, *weight.buffers, bias, residual):
                address |= tensor.data_ptr() if tensor is not None else 0
            alignment = address & -address
        return cls(
            device="cpu" if x.device.type == "cpu" else "cuda",
            m=m,
            n=weight.n,
            k=k,
            format=weight.format,
            block=block_of(weight.format, weight.buffers),
            kept=weight.tensor.numel(),
            x_strides=_plain(m, k, *x.stride()),
            bias_stride=bias.stride(0) if bias is not None else 0,
            residual_strides=None if residual is None else (residual.stride(0), residual.stride(1)),
            dtype=x.dtype,
            bias_dtype=bias.dtype if bias is not None else None,
            residual_dtype=residual.dtype if residual is not None else None,
            activation=activation,
            keep_preact=keep_preact,
            precision=precision,
            deterministic=deterministic,
            threads=threads,
            alignment=alignment,
            frozen=frozen,
        )


def density_bucket(density: float) -> str:
    """Quarter octaves of the kept part, by their middle: ``d0.105`` is 0.096 to 0.115."""
    if density <= 0:
        return "d0"
    return f"d{2.0 ** (round(4 * math.log2(min(density, 1.0))) / 4):.3g}"


def _plain(rows: int, cols: int, row_stride: int, col_stride: int) -> tuple[int, int]:
    """Strides of size-1 dimensions carry no meaning: give them those of a row-major matrix."""
    if cols == 1:
        col_stride = 1
    if rows == 1:
        row_stride = cols * col_stride
    return row_stride, col_stride
