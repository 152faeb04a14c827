"""Which configs are worth trying: blocks that fit the caches and divide evenly over the threads."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.cpu.config import (
    GEMV_ROWS,
    LANES,
    CpuConfig,
    instances,
    launch_threads,
    streams_a,
)
from tilewright.kernels.matmul.problem import MatmulProblem

# In cycles, measured on Zen 4 with AVX-512: packing an element that is contiguous along K (it is transposed
# in registers), storing an element of C through its epilogue, and waking a team of threads.
_PACK = 0.35
_FINISH = 0.3
_WAKE = 12_000.0

_WORTH = 2.0
"""Blocks that should take longer than the best by this factor are not worth measuring."""

_DEPTH = 384
"""block_k aims here: a strip of A (tile_m × block_k in fp32) then takes two thirds of a 32 KB L1 at most."""

_CHUNK = 1 << 14
"""gemv cuts K into chunks of this length where the streamed matrix has too few rows to share out."""


_QUERIES = 1 << 17
"""The most fp32 values of the small operand that gemv keeps beside the stream."""


def configs(problem: MatmulProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    """Every config worth trying, best guess first: at most two for gemv and two for each register tile."""
    if min(problem.m, problem.n) <= GEMV_ROWS:
        yield from _gemv(problem, device)
    yield from _gemm(problem, device)


def depth(k: int) -> int:
    """block_k: equal parts of K. It depends on K alone: the bits of a product do not change with threads."""
    if k <= _DEPTH * 3 // 2:
        return max(k, 1)
    return _round_up(_ceil(k, _ceil(k, _DEPTH)), 16)


def _ceil(size: int, step: int) -> int:
    return -(-size // step)


def _round_up(size: int, step: int) -> int:
    return _ceil(size, step) * step


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
        yield CpuConfig("gemv", device.arch, max(block_m, 1), max(block_n, 1), block_k, 0, 0)


def _gemm(problem: MatmulProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    ranked: list[tuple[float, int, CpuConfig]] = []
    for isa, algorithm, tile_m, tile_n in sorted(instances()):
        if isa == device.arch and algorithm == "gemm":
            best = sorted(set(_blocks(problem, device, tile_m, tile_n)))[:2]
            ranked += [
                (cost, rank, CpuConfig("gemm", isa, bm, bn, depth(problem.k), tile_m, tile_n))
                for rank, (cost, bm, bn) in enumerate(best)
            ]
    ranked.sort(key=lambda entry: (entry[0], str(entry[2])))
    for cost, _, config in ranked:
        if cost <= _WORTH * ranked[0][0]:
            yield config


def _blocks(
    problem: MatmulProblem, device: DeviceSpec, tile_m: int, tile_n: int
) -> Iterator[tuple[float, int, int]]:
    """(cycles, block_m, block_n) for ways to cut C into blocks."""
    threads = launch_threads(problem)
    m, n, k = max(problem.m, 1), max(problem.n, 1), max(problem.k, 1)
    lanes = LANES[device.arch]
    block_k = depth(k)
    widest = max(tile_n, device.l2_bytes // 2 // (4 * block_k) // tile_n * tile_n)
    fewest_n = _ceil(n, widest)
    for parts_n in _parts(fewest_n, threads, _ceil(n, tile_n)):
        block_n = min(_round_up(_ceil(n, parts_n), tile_n), 1 << 20)
        for parts_m in _parts(1, threads, _ceil(m, tile_m)):
            block_m = min(_round_up(_ceil(m, parts_m), tile_m), 1 << 20)
            # Unfinished sums of a block wait in cache for the next part of K.
            if block_k < k and block_m * block_n * 4 > max(device.llc_bytes // threads, 1 << 20):
                continue
            tasks = _ceil(m, block_m) * _ceil(n, block_n) * max(problem.batch_count, 1)
            rows, columns = min(block_m, m), min(_round_up(n, lanes), block_n)
            multiply = _rows(block_m, m, tile_m) * columns / lanes * (1 + _waits(tile_m, tile_n // lanes)) * k
            packing = _PACK * k * (rows + columns)
            cost = _ceil(tasks, threads) * (multiply + packing + _FINISH * rows * columns)
            yield cost + (_WAKE if min(tasks, threads) > 1 else 0.0), block_m, block_n


def _parts(fewest: int, threads: int, most: int) -> list[int]:
    """Counts of parts from `fewest` up that are worth a look, `most` at the most."""
    multiples = (threads * i for i in (1, 2, 3, 4))
    wanted = {fewest + i for i in range(5)} | {parts for parts in multiples if parts > fewest}
    return sorted({max(1, min(most, parts)) for parts in wanted})


def _waits(tile_m: int, vectors: int) -> float:
    """Cycles lost for each multiply-add of a tile.

    Processors load as many vectors in a cycle as they multiply, and a vector of B, which comes from L2, serves
    tile_m multiply-adds (1024³ on Zen 4: tiles 6x64 and 9x48 take 4 to 8 % longer than 14x32 and 16x16).
    """
    return max(0.0, (tile_m + vectors) / (tile_m * vectors) - 1.0) + 0.6 / tile_m


def _rows(block_m: int, m: int, tile_m: int) -> int:
    """Rows of a block as they count: a last strip of few rows takes as long as one of five."""
    rows = min(block_m, m)
    rest = rows % tile_m
    return rows - rest + max(rest, min(5, tile_m)) if rest else rows
