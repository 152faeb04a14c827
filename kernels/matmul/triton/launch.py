"""From (config, problem) to kernels whose arguments, but for the pointers, are all known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.triton import alignment, tiled
from tilewright.kernels.matmul.triton.config import TritonConfig
from tilewright.kernels.matmul.triton.limits import subtiles
from tilewright.kernels.triton_launch import INT32_LIMIT, Kernel, cdiv

_SUM_BLOCK = 1024  # elements of the output that one program of sum_parts owns


@dataclass(frozen=True, slots=True)
class Plan:
    """The kernels of one (config, problem): the product, and what finishes it if K is split."""

    main: Kernel
    finish: Kernel | None
    workspace: int  # fp32 elements
    slices: tuple[tuple[int, int, int, int], ...] | None
    """Element offsets into (a, b, residual, y) of each launch, if the batch has more than two dimensions."""


def plan(config: TritonConfig, problem: MatmulProblem, decode: bool = False) -> Plan:
    """What `config` launches for a problem whose output is not empty.

    Two dimensions of the batch are in the grid; the canonical batch rarely has more (only where broadcast
    and sliced dimensions alternate), and then each outer index is a launch of its own.
    """
    m, n, k = problem.m, problem.n, problem.k
    dims = len(problem.batch)
    outer, inner = (1, 1, *problem.batch)[-2:]
    a0, a1, am, ak = _last_four(problem.a_strides)
    b0, b1, bk, bn = _last_four(problem.b_strides)
    r0, r1, rm, rn = _last_four(problem.residual_strides or (0,) * (dims + 2))
    wide = is_wide(config, problem)
    input_aligned = problem.alignment % 16 == 0 and dims <= 2
    epilogue = (problem.bias_dtype, problem.residual_dtype)
    preact = problem.out_dtype if problem.keep_preact else None
    split = config.split_k > 1
    even_m, even_n = m % config.block_m == 0, n % config.block_n == 0
    tiles = cdiv(m, config.block_m) * cdiv(n, config.block_n)
    main = Kernel(
        fn=tiled.tiled_matmul,
        grid=(tiles * config.split_k * outer * inner, 1, 1),
        pointers=(
            problem.dtype,
            problem.dtype,
            torch.float32 if split else problem.out_dtype,
            *((None, None, None) if split else (preact, *epilogue)),
        ),
        aligned=(input_aligned, input_aligned, split or dims <= 2, dims <= 2, input_aligned, input_aligned),
        scalars=(m, n, k, inner, a0, a1, am, ak, b0, b1, bk, bn, problem.bias_stride, r0, r1, rm, rn),
        constants=(
            config.block_m,
            config.block_n,
            config.block_k,
            config.group_m,
            config.split_k,
            even_m,
            even_n,
            k % config.block_k == 0,
            problem.a_layout == "row",
            problem.b_layout == "row",
            alignment.unit(problem),
            wide,
            subtiles(config, problem),
            "none" if split else problem.activation,
            "tf32" if problem.precision == "tf32" and problem.dtype == torch.float32 else "ieee",
            decode,
        ),
        # Contracting a·b + c into one rounding is what torch's kernels do too; 3.9 warns unless it is said.
        options={"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True},
    )
    finish = _finish(config, problem, wide) if split else None
    slices = tuple(_slices(problem)) if dims > 2 else None
    return Plan(main, finish, config.split_k * outer * inner * m * n if split else 0, slices)


def _finish(config: TritonConfig, problem: MatmulProblem, wide: bool) -> Kernel:
    m, n, dims = problem.m, problem.n, len(problem.batch)
    outer, inner = (1, 1, *problem.batch)[-2:]
    block_m = 1 if m == 1 else 8
    block_n = _SUM_BLOCK // block_m
    input_aligned = problem.alignment % 16 == 0 and dims <= 2
    residual_strides = _last_four(problem.residual_strides or (0,) * (dims + 2))
    return Kernel(
        fn=tiled.sum_parts,
        grid=(cdiv(m, block_m) * cdiv(n, block_n) * outer * inner, 1, 1),
        pointers=(
            torch.float32,
            problem.out_dtype,
            problem.out_dtype if problem.keep_preact else None,
            problem.bias_dtype,
            problem.residual_dtype,
        ),
        aligned=(True, dims <= 2, dims <= 2, input_aligned, input_aligned),
        scalars=(m, n, inner, problem.bias_stride, *residual_strides),
        constants=(
            block_m,
            block_n,
            config.split_k,
            m % block_m == 0,
            n % block_n == 0,
            wide,
            problem.activation,
        ),
        options={"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True},
    )


def is_wide(config: TritonConfig, problem: MatmulProblem) -> bool:
    """Whether an offset within one matrix may pass 2^31 elements, lanes that masks switch off included."""
    m = problem.m + config.block_m
    n = problem.n + max(config.block_n, _SUM_BLOCK)
    k = problem.k + 2 * config.block_k  # the pointers step one tile past the last
    extents = [
        m * problem.a_strides[-2] + k * problem.a_strides[-1],
        k * problem.b_strides[-2] + n * problem.b_strides[-1],
        n * problem.bias_stride,
        m * n,
    ]
    if problem.residual_strides is not None:
        extents.append(m * problem.residual_strides[-2] + n * problem.residual_strides[-1])
    return max(extents) >= INT32_LIMIT


def _slices(problem: MatmulProblem) -> Iterator[tuple[int, int, int, int]]:
    sizes = problem.batch[:-2]
    per_slice = math.prod(problem.batch[-2:]) * problem.m * problem.n
    strides = [
        operand[: len(sizes)] if operand is not None else (0,) * len(sizes)
        for operand in (problem.a_strides, problem.b_strides, problem.residual_strides)
    ]
    for number, index in enumerate(product(*map(range, sizes))):
        a, b, residual = (sum(i * s for i, s in zip(index, walk, strict=True)) for walk in strides)
        yield a, b, residual, number * per_slice


def view_from(tensor: Tensor, offset: int) -> Tensor:
    """A tensor of one element, `offset` elements into `tensor`: only its address matters."""
    if tensor.numel() == 0:  # K = 0: nothing is read, and there is no element to point at
        return tensor
    return tensor.as_strided((1,), (1,), tensor.storage_offset() + offset)


def _last_four(strides: tuple[int, ...]) -> tuple[int, ...]:
    return (0, 0, *strides)[-4:]
