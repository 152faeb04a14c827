"""Which configs are worth trying: blocks that fit the caches and divide evenly over the threads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from tilewright.kernels.cpu import LANES, PANEL_VECTORS, features, launch_threads
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.cpu.config import GEMV_ROWS, CpuConfig, instances, rejection, streams_a
from tilewright.kernels.matmul.cpu.cost import expected_seconds
from tilewright.kernels.matmul.problem import MatmulProblem

_WORTH = 1.5
"""Configs that should take longer than the best by this factor are not worth measuring."""

_DEPTHS = (512, 1024, 4096)
"""block_k aims at these: 512 leaves L2 room for what comes next, 4096 spares the sums their waiting."""

_GROUPS = (1, 2, 4, 8)  # panels
_WIDE_GROUPS = (16, 32)
"""Where K is so short that these fit a quarter of L2: long pieces of a row of C are written at once, which took half
the time of 64 columns (997×1013×7, cold, Zen 5)."""

_ROWS = 2048  # of A at a time, at most
_CACHED_A = 6 << 20
"""Bytes of A at a time that stay in a last-level cache: 2048³ in fp32 took 6 % less time with 672 rows of A at a time
than with all 2048 (Zen 5). A plain B is packed again for every such block, so there it is not tried."""

_CHUNK = 1 << 14
"""gemv cuts K into chunks of this length where the streamed matrix has too few rows to share out."""

_QUERIES = 1 << 17
"""The most fp32 values of the small operand that gemv keeps beside the stream."""

_FEW_ROWS = 64
"""Up to here a panel of B is read a few times at most, and fetching ahead is worth trying both ways."""


def configs(problem: MatmulProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    """Every config worth trying that runs, best guess first."""
    found = set(_gemm(problem, device))
    if min(problem.m, problem.n) <= GEMV_ROWS:
        found.update(_gemv(problem, device))
    ranked = sorted(
        (expected_seconds(config, problem, device), str(config), config)
        for config in found
        if rejection(config, problem, device) is None
    )
    for seconds, _, config in ranked:
        if seconds <= _WORTH * ranked[0][0]:
            yield config


def depths(k: int) -> list[int]:
    """block_k: equal parts of K near each of the sizes aimed at. They depend on K alone."""
    return sorted({_depth(max(k, 1), aim) for aim in _DEPTHS})


def _depth(k: int, aim: int) -> int:
    return k if k <= aim * 3 // 2 else _round_up(_ceil(k, _ceil(k, aim)), 16)


def _ceil(size: int, step: int) -> int:
    return -(-size // step)


def _round_up(size: int, step: int) -> int:
    return _ceil(size, step) * step


def _even(size: int, most: int) -> int:
    """The size of the parts when `size` is cut into as few equal ones as keep below `most`."""
    return _ceil(size, _ceil(size, min(most, size)))


def _gemv(problem: MatmulProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    threads = launch_threads(problem)
    swapped = streams_a(problem)
    rows, queries = (problem.m, problem.n) if swapped else (problem.n, problem.m)
    k = max(problem.k, 1)
    strides = problem.a_strides[-2:] if swapped else problem.b_strides[-2:][::-1]
    # Sums of every query wait in half of L1 while the stream passes across them.
    most = max(64, device.l1_bytes // 2 // 4 // max(queries, 1) // 16 * 16) if strides[1] != 1 else 1 << 16
    # Small products stay on one thread: reading them takes less time than waking the team.
    small = rows * k * problem.batch_count <= 64 << 10
    share = rows if small else _ceil(rows, threads)
    tasks_elsewhere = problem.batch_count >= threads or small
    block = min(most, rows if tasks_elsewhere else max(16, _round_up(share, 16)))
    # Too few rows for the threads: share out K instead, in a number of chunks that K and the rows decide.
    few_rows = rows < 64 and k > 2 * _CHUNK
    # The queries, converted to fp32, stay in half a megabyte of L2.
    block_k = _CHUNK if few_rows else min(k, max(_QUERIES // max(queries, 1), 1))
    for size in dict.fromkeys((block, max(16, block // 2 // 16 * 16))):
        size = min(size, 1 << 20)
        block_m, block_n = (size, queries) if swapped else (queries, size)
        yield CpuConfig("gemv", device.arch, max(block_m, 1), max(block_n, 1), block_k)


def _gemm(problem: MatmulProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    """For every tile: the best guess of blocks and parts at each depth, and its neighbours in block_n."""
    pair_products = problem.dtype == torch.bfloat16 and "avx512bf16" in features()
    here = sorted(row for row in instances() if row[0] == device.arch and row[1] == "gemm")
    # A machine with bf16 dot products has no use for widening: half the rate, at best.
    if pair_products and any(compute == "bf16" for _, _, compute, _, _ in here):
        here = [row for row in here if row[2] == "bf16"]
    for isa, _, compute, tile_m, tile_n in here:
        if compute == "bf16" and not pair_products:
            continue
        for block_k in depths(problem.k):
            ranked = sorted(
                (expected_seconds(config, problem, device), str(config), config)
                for config in _blocks(problem, device, isa, compute, tile_m, tile_n, block_k)
            )
            kept: set[tuple[int, str]] = set()
            for _, _, config in ranked:
                if len(kept) == 2:
                    break
                if (config.block_n, config.pack_b) not in kept:
                    kept.add((config.block_n, config.pack_b))
                    yield config


def _blocks(
    problem: MatmulProblem,
    device: DeviceSpec,
    isa: str,
    compute: str,
    tile_m: int,
    tile_n: int,
    block_k: int,
) -> Iterator[CpuConfig]:
    m, n = max(problem.m, 1), max(problem.n, 1)
    panel = PANEL_VECTORS * LANES[isa]
    packs = ("private",) if problem.batch else ("private", "shared")
    if problem.frozen_b and not problem.batch:
        packs = ("frozen",)
    whole = _even(m, _ROWS)
    cached = _even(m, max(_CACHED_A // (4 * max(problem.k, 1)), 4 * tile_m))
    heights = {"private": {whole}, "shared": {whole, cached}, "frozen": {cached}}
    groups = [
        *_GROUPS,
        *(group for group in _WIDE_GROUPS if 4 * group * panel * block_k <= device.l2_bytes / 4),
    ]
    for parts_m, parts_n in _parts(_ceil(m, tile_m), _ceil(n, panel), problem):
        for group in groups:
            block_n = group * panel
            if (group > 1 and group > _ceil(n, panel * parts_n)) or block_n < tile_n:
                continue
            for pack_b in packs:
                if pack_b == "private":
                    fetches: tuple[int, ...] = (0,)
                else:
                    fetches = (0, 4096) if m <= _FEW_ROWS else (4096,)
                for prefetch, block_m in itertools.product(fetches, heights[pack_b]):
                    yield CpuConfig(
                        "gemm",
                        isa,
                        _round_up(block_m, tile_m),
                        block_n,
                        block_k,
                        tile_m,
                        tile_n,
                        compute,
                        pack_b,
                        parts_m,
                        parts_n,
                        prefetch,
                    )


def _parts(strips: int, panels: int, problem: MatmulProblem) -> list[tuple[int, int]]:
    """Grids of as many parts as there are threads (or fewer, where C is small), and one part alone."""
    threads = launch_threads(problem)
    grids = {(1, 1)}
    for parts_m in range(1, min(threads, strips) + 1):
        parts_n = min(threads // parts_m, panels)
        if parts_n >= 1:
            grids.add((parts_m, parts_n))
    return sorted(grids)
