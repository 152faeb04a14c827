"""TritonConfig: the parameters of the Triton kernels of matmul, and the list of those worth trying."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.triton_launch import cdiv


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """Prints as ``tiled 128x128x32 g8 k1 w8 s4``."""

    algorithm: str
    block_m: int
    block_n: int
    block_k: int
    group_m: int
    split_k: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        return (
            f"{self.algorithm} {self.block_m}x{self.block_n}x{self.block_k} g{self.group_m} "
            f"k{self.split_k} w{self.num_warps} s{self.num_stages}"
        )


# (block_m, block_n, block_k, num_warps, num_stages). Stages are as many as shared memory holds without
# leaving a multiprocessor to fewer blocks than its registers would: large tiles take 3-4, small tiles 4-6.
_HOPPER_16BIT = (
    (128, 256, 64, 8, 3),
    (256, 128, 64, 8, 3),
    (128, 256, 64, 8, 4),
    (128, 128, 64, 8, 3),
    (128, 128, 64, 4, 4),
    (64, 256, 64, 4, 4),
    (64, 128, 64, 4, 4),
    (128, 64, 64, 4, 4),
    (64, 64, 64, 4, 6),
    (64, 64, 128, 4, 4),
    (128, 128, 32, 8, 4),  # this and the next for operands that are read element by element
    (64, 64, 32, 4, 4),
    (32, 64, 128, 4, 4),
    (16, 64, 128, 4, 5),
    (16, 128, 128, 4, 4),
    (16, 32, 256, 4, 4),
    (16, 32, 64, 4, 6),
)
_AMPERE_16BIT = (
    (128, 256, 32, 8, 4),
    (256, 128, 32, 8, 4),
    (128, 256, 64, 8, 3),
    (128, 128, 32, 4, 5),
    (128, 128, 32, 8, 4),  # for operands that are read element by element
    (128, 128, 64, 8, 3),
    (64, 128, 32, 4, 5),
    (64, 128, 64, 4, 4),
    (128, 64, 32, 4, 5),
    (64, 64, 64, 4, 5),
    (64, 64, 32, 4, 6),
    (32, 64, 64, 4, 6),
    (16, 64, 128, 4, 5),
    (16, 128, 64, 4, 5),
    (16, 32, 256, 4, 4),
    (16, 32, 64, 4, 6),
)
_TF32 = (
    (128, 256, 32, 8, 3),
    (128, 128, 32, 8, 3),
    (128, 128, 32, 4, 4),
    (64, 128, 32, 4, 4),
    (128, 64, 32, 4, 4),
    (64, 64, 32, 4, 4),
    (32, 64, 64, 4, 4),
    (16, 64, 64, 4, 5),
    (16, 32, 128, 4, 4),
)
# IEEE fp32 has no matrix unit: each thread multiplies registers, so the tile is bounded by registers.
_FP32 = (
    (128, 128, 16, 8, 3),
    (128, 64, 16, 8, 3),
    (64, 128, 16, 8, 3),
    (64, 64, 16, 4, 4),
    (64, 64, 32, 8, 3),
    (32, 64, 32, 4, 4),
    (32, 32, 32, 4, 4),
    (16, 64, 32, 4, 4),
    (16, 32, 32, 4, 5),
)

_GROUP_M = 8
_MAX_CONFIGS = 24
_MIN_TILES_PER_PART = 4  # K tiles; fewer do not fill the pipeline that each part starts anew


def candidates(problem: MatmulProblem, device: DeviceSpec) -> Iterator[TritonConfig]:
    """Configs for the problem, most promising first; some may still not fit (`limits.rejects`)."""
    # Equally cheap ones keep the order of the tables above.
    ranked = sorted(_tiles(problem, device), key=lambda config: _cost(config, problem, device))
    yield from ranked[:_MAX_CONFIGS]


def _tiles(problem: MatmulProblem, device: DeviceSpec) -> Iterator[TritonConfig]:
    if problem.dtype in (torch.float16, torch.bfloat16):
        base: tuple[tuple[int, int, int, int, int], ...] = (
            _HOPPER_16BIT if 90 <= device.capability < 120 else _AMPERE_16BIT
        )
    else:
        base = _TF32 if problem.precision == "tf32" else _FP32
    widest_m, widest_n = _covering(problem.m), _covering(problem.n)
    for block_m, block_n, block_k, num_warps, num_stages in base:
        # A block more than twice as tall as the matrix would compute mostly padding.
        if block_m > max(widest_m, 16) or block_n > max(widest_n, 32):
            continue
        group_m = min(_GROUP_M, _covering(cdiv(problem.m, block_m)))
        for split_k in _splits(problem, device, block_m, block_n, block_k):
            yield TritonConfig("tiled", block_m, block_n, block_k, group_m, split_k, num_warps, num_stages)


def _splits(
    problem: MatmulProblem, device: DeviceSpec, block_m: int, block_n: int, block_k: int
) -> Iterator[int]:
    """1, and the powers of two around those that give every multiprocessor one tile or two."""
    yield 1
    tiles = problem.batch_count * cdiv(problem.m, block_m) * cdiv(problem.n, block_n)
    most = cdiv(problem.k, block_k) // _MIN_TILES_PER_PART
    for split_k in (2, 4, 8, 16):
        if (
            split_k <= most
            and device.units // 2 < tiles * split_k <= 4 * device.units
            and tiles < device.units
        ):
            yield split_k


def _cost(config: TritonConfig, problem: MatmulProblem, device: DeviceSpec) -> float:
    """Relative time: waves of blocks, each bound by its multiplications or by the operands it must fetch.

    Only the order matters, and only until the tuner's cost model ranks the same list with measured rates.
    """
    tiles = problem.batch_count * cdiv(problem.m, config.block_m) * cdiv(problem.n, config.block_n)
    units = max(device.units, 1)
    waves = math.ceil(tiles * config.split_k / units)
    depth = problem.k / config.split_k
    # In units of one multiply-add per lane of the matrix unit: a block below 128 x 128 is bound by fetching.
    multiply = config.block_m * config.block_n * depth
    fetch = 72 * (config.block_m + config.block_n) * depth
    finish = 64 * config.block_m * config.block_n
    workspace = 0.0
    if config.split_k > 1:
        # Written once and read once, by all multiprocessors together, at main memory's or L2's pace.
        workspace = 128 * problem.batch_count * problem.m * problem.n * config.split_k / units + 2e6
    return waves * (max(multiply, fetch) + finish) + workspace


def _covering(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(size - 1, 0).bit_length()
