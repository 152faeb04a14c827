"""CpuConfig: the parameters of a CPU matmul kernel, and what makes one impossible."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from types import ModuleType
from typing import Any

import torch

from tilewright.kernels.dtypes import DTYPE_NAMES, KERNEL_DTYPES
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.problem import MatmulProblem

ISA_LEVELS = ("portable", "avx2", "avx512")
"""Lowest first. A machine runs its own level and those below it."""

LANES = {"portable": 4, "avx2": 8, "avx512": 16}
"""fp32 values in a vector."""

GEMV_ROWS = 16
"""The most rows (or columns) that gemv takes: ``kGemvRows`` in matmul.h."""

PANEL_VECTORS = 2
"""Vectors in a panel of packed B: ``kPanelVectors`` in csrc/cpu/microkernel.h."""

COMPUTE = ("f32", "bf16")
PACK_B = ("private", "shared", "frozen")

_MAX_BLOCK = 1 << 20
_MAX_WORKSPACE = 1 << 30
MAX_THREADS = 1024


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


def core() -> ModuleType | None:
    """The compiled module, or None where it was not built or does not load."""
    try:
        from tilewright import _C
    except ImportError:
        return None
    return _C


@cache
def features() -> frozenset[str]:
    """What the processor of this machine has ("avx512bf16")."""
    module = core()
    return frozenset() if module is None else frozenset(module.cpu_info()["features"])


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
    return _bad_fields(config) or _bad_problem(problem) or _bad_match(config, problem, device)


def _bad_fields(config: Any) -> str | None:
    if not isinstance(config, CpuConfig):
        return f"expected a CpuConfig, got {type(config).__name__}"
    for field in fields(config):
        value = getattr(config, field.name)
        expected = str if field.type in (str, "str") else int
        if type(value) is not expected:
            return f"{field.name} is {value!r:.40}; expected {expected.__name__}"
    for name in ("block_m", "block_n", "block_k"):
        value = getattr(config, name)
        if not 1 <= value <= _MAX_BLOCK:
            return f"{name} is {value}; expected 1 to {_MAX_BLOCK}"
    if config.compute not in COMPUTE or config.pack_b not in PACK_B:
        return f"knows no compute {config.compute!r:.40} with pack_b {config.pack_b!r:.40}"
    if min(config.parts_m, config.parts_n) < 1 or config.parts_m * config.parts_n > MAX_THREADS:
        return f"{config.parts_m}x{config.parts_n} parts; expected 1 to {MAX_THREADS} in all"
    if not 0 <= config.prefetch <= _MAX_BLOCK:
        return f"prefetch is {config.prefetch}; expected 0 to {_MAX_BLOCK}"
    return None


def _bad_problem(problem: MatmulProblem) -> str | None:
    if problem.device != "cpu":
        return "the CPU kernels do not reach GPU memory"
    for what, dtype in (
        ("operands", problem.dtype),
        ("output", problem.out_dtype),
        ("bias", problem.bias_dtype),
        ("residual", problem.residual_dtype),
    ):
        if dtype is not None and dtype not in KERNEL_DTYPES:
            return f"computes f32, bf16 and f16; the {what} dtype is {DTYPE_NAMES.get(dtype, dtype)}"
    if problem.activation not in ACTIVATIONS:
        return f"knows no activation {problem.activation!r:.40}"
    return None


def _bad_match(config: CpuConfig, problem: MatmulProblem, device: DeviceSpec) -> str | None:
    if config.isa not in ISA_LEVELS:
        return f"knows no ISA level {config.isa!r:.40}"
    if device.arch not in ISA_LEVELS or ISA_LEVELS.index(config.isa) > ISA_LEVELS.index(device.arch):
        return f"needs {config.isa}; the level in use is {device.arch}"
    if (config.isa, config.algorithm, config.compute, config.tile_m, config.tile_n) not in instances():
        tile = f"{config.compute} tile {config.tile_m}x{config.tile_n}"
        return f"{config.algorithm!r:.40} with {tile} was not compiled for {config.isa}"
    if config.compute == "bf16" and problem.dtype != torch.bfloat16:
        return f"multiplies bf16 pairs; the operands are {DTYPE_NAMES[problem.dtype]}"
    if config.compute == "bf16" and "avx512bf16" not in features():
        return "needs AVX512-BF16, which this processor lacks"
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
    if scratch > _MAX_WORKSPACE:
        return f"needs {scratch >> 20} MiB of scratch memory; the limit is {_MAX_WORKSPACE >> 20}"
    return None


def launch_threads(problem: MatmulProblem) -> int:
    """The team's size for a launch: the problem's, or torch's where the problem leaves it open."""
    return max(1, min(problem.threads or torch.get_num_threads(), MAX_THREADS))


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
