"""Random operands for a given matmul problem, down to its strides and alignment: what tuning runs on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tilewright.errors import ArgumentError
from tilewright.kernels.frozen import FrozenOperand
from tilewright.kernels.inputs import Layout, random_operand, without_memory
from tilewright.kernels.matmul.problem import MatmulProblem

Inputs = tuple[Tensor, Tensor | FrozenOperand, Tensor | None, Tensor | None]


def random_inputs(
    problem: MatmulProblem, device: torch.device, generator: torch.Generator | None = None
) -> Inputs:
    """Fresh (a, b, bias, residual) from which ``MatmulProblem.from_tensors`` builds exactly `problem`.

    a, bias and residual are standard normal and b is scaled by ``1/√K``, so that every output is of the order
    of one and no dtype overflows; integers lie between -4 and 4. A frozen b comes as a `FrozenOperand`, with nothing
    packed.

    Raises:
        ArgumentError: an operand's strides span more than 8 GiB, or the problem has several batch dimensions
            and one of them is empty (their merging cannot be undone, and there is nothing to run).
    """
    for a, b, residual in _layouts(problem):
        bias = ([problem.n], [problem.bias_stride]) if problem.bias_dtype is not None else None
        layouts = (a, b, bias, residual)
        # Tried on tensors without memory first: several ways of writing a product look alike until here.
        if not _gives(
            problem,
            [without_memory(layout, dtype) for layout, dtype in zip(layouts, _dtypes(problem), strict=True)],
        ):
            continue
        misaligned = problem.alignment if 0 < problem.alignment < 16 else 0
        scales = (1.0, 1 / math.sqrt(max(problem.k, 1)), 1.0, 1.0)
        offsets = (misaligned, 0, 0, 0)
        filled = [
            None
            if layout is None or dtype is None
            else random_operand("matmul", layout, dtype, scale, offset, device, generator)
            for layout, dtype, scale, offset in zip(layouts, _dtypes(problem), scales, offsets, strict=True)
        ]
        assert filled[0] is not None
        assert filled[1] is not None
        weight = FrozenOperand(filled[1]) if problem.frozen_b else filled[1]
        return filled[0], weight, filled[2], filled[3]
    raise ArgumentError(f"matmul: no operands have the geometry of {problem.describe()}")


def _dtypes(problem: MatmulProblem) -> tuple[torch.dtype | None, ...]:
    return problem.dtype, problem.dtype, problem.bias_dtype, problem.residual_dtype


def _layouts(problem: MatmulProblem) -> Iterator[tuple[Layout, Layout, Layout | None]]:
    """Ways to write the product: A or B may be vectors, leading dimensions may have been folded into M."""
    m, n, k = problem.m, problem.n, problem.k
    for a_is_vector, b_is_vector, folded in _VARIANTS:
        batch = list(problem.out_shape)
        if not b_is_vector and (not batch or batch.pop() != n):
            continue
        if not a_is_vector and not batch:
            continue
        rows = 1 if a_is_vector else batch.pop()
        if rows * (math.prod(batch) if folded else 1) != m or (folded and problem.batch):
            continue
        # Strides of the visible batch dimensions. A folded product's rows are walked evenly by all of them.
        a_batch = (
            _even(batch, rows, problem.a_strides[-2])
            if folded
            else _spread(batch, problem, problem.a_strides)
        )
        b_batch = [0] * len(batch) if folded else _spread(batch, problem, problem.b_strides)
        if a_batch is None or b_batch is None:
            continue
        a_sizes = [
            1 if s == 0 and t != 0 else size for size, s, t in zip(batch, a_batch, b_batch, strict=True)
        ]
        b_sizes = [1 if s == 0 else size for size, s in zip(batch, b_batch, strict=True)]
        if a_is_vector:
            if any(a_batch):
                continue
            a_sizes, a_batch, b_sizes = [], [], batch
        # Broadcast leading dimensions of B are left out, as users do: torch treats an expanded B differently.
        first = 0 if a_is_vector else next((i for i, size in enumerate(b_sizes) if size != 1), len(b_sizes))
        if b_is_vector and b_sizes[first:]:
            continue
        a: Layout = ([*a_sizes, rows, k], [*a_batch, *problem.a_strides[-2:]])
        b: Layout = ([*b_sizes[first:], k, n], [*b_batch[first:], *problem.b_strides[-2:]])
        if a_is_vector:
            a = ([k], [problem.a_strides[-1]])
        if b_is_vector:
            b = ([k], [problem.b_strides[-2]])
        residual: Layout | None = None
        strides = problem.residual_strides
        if strides is not None:
            spread = _even(batch, rows, strides[-2]) if folded else _spread(batch, problem, strides)
            if spread is None:
                continue
            spread += [] if a_is_vector else [strides[-2]]
            residual = (list(problem.out_shape), spread + ([] if b_is_vector else [strides[-1]]))
        yield a, b, residual


_VARIANTS = tuple(
    (a_is_vector, b_is_vector, folded)
    for a_is_vector in (False, True)
    for b_is_vector in (False, True)
    for folded in (False, True)
)


def _even(batch: Sequence[int], rows: int, row_stride: int) -> list[int]:
    strides, step = [], rows * row_stride
    for size in reversed(batch):
        strides.append(step)
        step *= size
    return strides[::-1]


def _spread(batch: Sequence[int], problem: MatmulProblem, strides: Sequence[int]) -> list[int] | None:
    """Strides of the visible dimensions `batch` whose merging gave ``problem.batch``; None if nothing."""
    merged = list(zip(problem.batch, strides, strict=False))
    result = [0] * len(batch)
    left, step = 1, 0  # of the merged dimension that is being spread
    for i in range(len(batch) - 1, -1, -1):
        if batch[i] == 1:
            continue
        if left == 1:
            if not merged:
                return None
            left, step = merged.pop()
        if batch[i] == 0 or left % batch[i]:
            if left != 0:
                return None
            # Some dimension is empty, so nothing is ever read: any strides do.
            result[i] = step
            continue
        result[i] = step
        step *= batch[i]
        left //= batch[i]
    return result if not merged and left in (0, 1) else None


def _gives(problem: MatmulProblem, tensors: Sequence[Tensor | None]) -> bool:
    """Whether tensors of this geometry lead back to the problem; device and alignment aside."""
    a, b, bias, residual = tensors
    assert a is not None
    assert b is not None
    try:
        again = MatmulProblem.from_tensors(
            a,
            b,
            bias,
            residual,
            activation=problem.activation,
            out_dtype=problem.out_dtype,
            keep_preact=problem.keep_preact,
            precision=problem.precision,
            deterministic=problem.deterministic,
            threads=problem.threads,
            frozen_b=problem.frozen_b,
        )
    except RuntimeError:  # shapes that do not broadcast
        return False
    return replace(again, device=problem.device, alignment=problem.alignment) == problem
