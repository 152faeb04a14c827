"""CpuConfig: the parameters of a CPU matmul kernel, and what makes one impossible."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from tilewright.kernels.cpu import (
    COMPUTE,
    LANES,
    MAX_BLOCK,
    MAX_THREADS,
    MAX_WORKSPACE,
    PANEL_VECTORS,
    bad_fields,
    bad_problem,
    core,
    launch_threads,
    unusable,
)
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.problem import MatmulProblem

GEMV_ROWS = 16
"""The most rows (or columns) that gemv takes: ``kGemvRows`` in matmul.h."""

PACK_B = ("private", "shared", "frozen")


@dataclass(frozen=True, slots=True)
class CpuConfig:
    """How a product is cut up.

    ``gemm``: ``block_m`` rows of A are packed at a time. C is cut into ``parts_m × parts_n`` parts, one for each
    thread. A part is computed in groups of ``block_n`` columns and steps of ``block_k``; registers hold
    ``tile_m × tile_n``. ``gemv``: a task reads ``block_m`` rows of A or ``block_n`` columns of B (whichever
    matrix is streamed) in steps of ``block_k``; the other fields have no meaning.

    ``compute`` is what multiplies: ``f32`` (16-bit operands are widened), or ``bf16`` for the processor's dot
    products of bf16 pairs, with sums in fp32. ``pack_b`` says who lays B out: each thread its own part
    (``private``), all threads together before they start (``shared``), or whoever froze the weight (``frozen``).
    ``prefetch`` is how far ahead, in bytes, packed B is fetched where it is read but once; where it is read
    again, any but 0 means that the next block is fetched while this one is multiplied.

    ``isa``, ``compute``, ``block_k`` and the tile decide the bits of the result; threads and parts do not.
    """

    algorithm: str  # gemm or gemv
    isa: str  # one of ISA_LEVELS
    block_m: int
    block_n: int
    block_k: int
    tile_m: int = 0
    tile_n: int = 0
    compute: str = "f32"  # one of COMPUTE
    pack_b: str = "private"  # one of PACK_B
    parts_m: int = 1
    parts_n: int = 1
    prefetch: int = 0

    def __str__(self) -> str:
        blocks = f"{self.algorithm} {self.isa} {self.block_m}x{self.block_n}x{self.block_k}"
        if not self.tile_m:
            return blocks
        fetched = f" fetch{self.prefetch}" if self.prefetch else ""
        parts = f"p{self.parts_m}x{self.parts_n}"
        return f"{blocks} t{self.tile_m}x{self.tile_n} {self.compute} {self.pack_b} {parts}{fetched}"


@cache
def instances() -> frozenset[tuple[str, str, str, int, int]]:
    """(isa, algorithm, compute, tile_m, tile_n) of every kernel that was compiled."""
    module = core()
    if module is None:
        return frozenset()
    return frozenset(
        (row["isa"], row["algorithm"], row["compute"], row["tile_m"], row["tile_n"])
        for row in module.instances()
        if row["operation"] == "matmul" and row["backend"] == "cpu"
    )


def streams_a(problem: MatmulProblem) -> bool:
    """Whether gemv would stream A (few columns in B) rather than B (few rows in A)."""
    return problem.m > problem.n


def rejection(config: Any, problem: MatmulProblem, device: DeviceSpec) -> str | None:
    """None if the config computes the problem on the device, else a sentence that says why not."""
    return _bad_fields(config) or bad_problem(problem) or _bad_match(config, problem, device)


def _bad_fields(config: Any) -> str | None:
    bad = bad_fields(config, CpuConfig, ("block_m", "block_n", "block_k"))
    if bad is not None:
        return bad
    if config.compute not in COMPUTE or config.pack_b not in PACK_B:
        return f"knows no compute {config.compute!r:.40} with pack_b {config.pack_b!r:.40}"
    if min(config.parts_m, config.parts_n) < 1 or config.parts_m * config.parts_n > MAX_THREADS:
        return f"{config.parts_m}x{config.parts_n} parts; expected 1 to {MAX_THREADS} in all"
    if not 0 <= config.prefetch <= MAX_BLOCK:
        return f"prefetch is {config.prefetch}; expected 0 to {MAX_BLOCK}"
    return None


def _bad_match(config: CpuConfig, problem: MatmulProblem, device: DeviceSpec) -> str | None:
    bad = unusable(config.isa, config.compute, problem.dtype, device)
    if bad is not None:
        return bad
    if (config.isa, config.algorithm, config.compute, config.tile_m, config.tile_n) not in instances():
        tile = f"{config.compute} tile {config.tile_m}x{config.tile_n}"
        return f"{config.algorithm!r:.40} with {tile} was not compiled for {config.isa}"
    if config.pack_b == "frozen" and not problem.frozen_b:
        return (
            "B may change between calls, so a packed copy could go stale; pack the weight of a frozen module"
        )
    if config.pack_b != "private" and problem.batch:
        return f"B of a batch is packed by each thread, not {config.pack_b}"
    if config.algorithm == "gemv":
        few = min(problem.m, problem.n)
        if few > GEMV_ROWS:
            return f"gemv takes at most {GEMV_ROWS} rows or columns; this product has {few}"
        swapped = streams_a(problem)
        strides = (problem.a_strides if swapped else problem.b_strides)[-2:]
        if 1 not in strides:
            name = "a" if swapped else "b"
            return f"gemv streams {name} and needs unit stride in one of its dimensions; they are {strides}"
    scratch = workspace_bytes(config, problem)
    if scratch > MAX_WORKSPACE:
        return f"needs {scratch >> 20} MiB of scratch memory; the limit is {MAX_WORKSPACE >> 20}"
    return None


def workspace_bytes(config: CpuConfig, problem: MatmulProblem) -> int:
    """An upper bound of the scratch memory of a launch: what ``Layout`` in gemm.cpp and gemv.cpp ask for."""
    threads = launch_threads(problem)
    m, n, k = (max(size, 1) for size in (problem.m, problem.n, problem.k))
    block_m, block_n, block_k = min(config.block_m, m), min(config.block_n, n), min(config.block_k, k)
    if config.algorithm == "gemv":
        queries, rows = (n, m) if streams_a(problem) else (m, n)
        block = min(block_m, rows) if streams_a(problem) else min(block_n, rows)
        per_thread = queries * (block_k + 32) + (queries + GEMV_ROWS) * (block + 32) + 64
        chunks = -(-k // block_k)
        blocks = -(-rows // block) * max(problem.batch_count, 1)
        partial = chunks * blocks * (queries * (block + 16) + 16) if chunks > 1 else 0
        return 4 * (threads * per_thread + partial)
    panel = PANEL_VECTORS * LANES[config.isa]
    rows = min(_round_up(config.block_m, config.tile_m), m)
    columns = _round_up(block_n, panel) + panel
    # Every unit of packed A, and at most every one of B, is an fp32 value or a bf16 pair.
    solo = problem.batch_count > 1 and config.parts_m * config.parts_n == 1
    a_copy = rows * (k + 32)  # whole lines, an odd number of them
    shared_b = _round_up(n, panel) * (k + 1) if config.pack_b == "shared" else 0
    private_b = columns * (block_k + 1) if config.pack_b == "private" else 0
    sums = rows * columns if block_k < k else 0
    own = private_b + sums + config.tile_m * config.tile_n + (a_copy if solo else 0) + 512
    return 4 * (threads * own + shared_b + (0 if solo else a_copy) + 512)


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
