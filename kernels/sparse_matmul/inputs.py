"""Random operands for a given sparse_matmul problem, down to its strides: what tuning runs on."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from tilewright.errors import ArgumentError
from tilewright.kernels.inputs import random_operand
from tilewright.kernels.sparse_matmul.formats import WORD, Buffers, bitmap_bits, ceil, indices_2to4
from tilewright.kernels.sparse_matmul.operand import SparseOperand
from tilewright.kernels.sparse_matmul.problem import SparseMatmulProblem

Inputs = tuple[Tensor, SparseOperand, Tensor | None, Tensor | None]


def random_inputs(
    problem: SparseMatmulProblem, device: torch.device, generator: torch.Generator | None = None
) -> Inputs:
    """Fresh (x, weight, bias, residual) from which ``SparseMatmulProblem.from_tensors`` builds exactly `problem`.

    The kept positions are drawn evenly over the whole weight, so rows are about equally long. x, bias and residual are
    standard normal, the values are scaled by one over the root of a row's length, so that outputs are of the order of
    one.

    Raises:
        ArgumentError: an operand spans more than 8 GiB, or the problem keeps more than its format can hold.
    """
    buffers = _buffers(problem, device, generator)
    weight = SparseOperand(problem.format, buffers, problem.n, problem.k)

    def filled(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        misaligned = problem.alignment if 0 < problem.alignment < 16 else 0
        return random_operand("sparse_matmul", (shape, strides), dtype, 1.0, misaligned, device, generator)

    x = filled((problem.m, problem.k), problem.x_strides, problem.dtype)
    bias = residual = None
    if problem.bias_dtype is not None:
        bias = filled((problem.n,), (problem.bias_stride,), problem.bias_dtype)
    if problem.residual_dtype is not None and problem.residual_strides is not None:
        residual = filled((problem.m, problem.n), problem.residual_strides, problem.residual_dtype)
    again = SparseMatmulProblem.from_tensors(
        x,
        weight,
        bias,
        residual,
        activation=problem.activation,
        keep_preact=problem.keep_preact,
        precision=problem.precision,
        deterministic=problem.deterministic,
        threads=problem.threads,
        frozen=problem.frozen,
    )
    if replace(again, device=problem.device, alignment=problem.alignment) != problem:
        raise ArgumentError(f"sparse_matmul: no operands have the geometry of {problem.describe()}")
    return x, weight, bias, residual


def _buffers(
    problem: SparseMatmulProblem, device: torch.device, generator: torch.Generator | None
) -> Buffers:
    n, k, (r, c) = problem.n, problem.k, problem.block
    if problem.format == "2:4":
        groups = ceil(k, 4)
        # The two largest of four random numbers, in order.
        score = torch.rand((n, groups, 4), generator=generator, device=device)
        last = max(1, k - 4 * (groups - 1))
        if groups and last < 4:
            score[:, -1, last:] = -1
        positions = score.topk(2, dim=2).indices.sort(dim=2).values
        values = _values((n, groups, 2), problem, device, generator)
        if groups:
            values[:, -1][positions[:, -1] >= last] = 0
        return values.view(n, 2 * groups), indices_2to4(positions)
    if problem.format == "bsr":
        down, across, count = ceil(n, r), ceil(k, c), problem.kept // (r * c)
        mask = _mask(down, across, count, device, generator)
        crow = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)).int()
        row, col = mask.nonzero().unbind(1)
        values = _values((count, r, c), problem, device, generator)
        inside = torch.arange(r, device=device).view(1, r, 1) + row.view(-1, 1, 1) * r < n
        inside = inside & (torch.arange(c, device=device).view(1, 1, c) + col.view(-1, 1, 1) * c < k)
        return crow, col.int(), values * inside
    mask = _mask(n, k, problem.kept, device, generator)
    row = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)).int()
    bits = bitmap_bits(mask)
    assert bits.shape[1] == ceil(k, WORD)
    return bits, row, _values((problem.kept,), problem, device, generator)


def _mask(
    rows: int, columns: int, count: int, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Bool (rows, columns) with exactly `count` set."""
    if not 0 <= count <= rows * columns:
        raise ArgumentError(f"sparse_matmul: {count} of {rows} x {columns} cannot be kept")
    mask = torch.zeros(rows * columns, dtype=torch.bool, device=device)
    mask[torch.randperm(rows * columns, generator=generator, device=device)[:count]] = True
    return mask.view(rows, columns)


def _values(
    shape: tuple[int, ...],
    problem: SparseMatmulProblem,
    device: torch.device,
    generator: torch.Generator | None,
) -> Tensor:
    scale = 1 / math.sqrt(max(1.0, problem.kept / max(1, problem.n)))
    wide = torch.float64 if problem.dtype == torch.float64 else torch.float32
    return (torch.randn(shape, generator=generator, dtype=wide, device=device) * scale).to(problem.dtype)
