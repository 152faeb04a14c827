"""How long a CPU config should take: what the untuned choice and the order of trials rest on.

Pure functions of (config, problem, device). A part of C costs what its thread does: multiply-adds, or the loads
that feed them where tiles are small; packing; the epilogue; and the bytes it draws from memory, which overlap
with the rest as far as they are fetched ahead. Constants in cycles or shares were measured on AMD Zen 4 and
Zen 5 with AVX-512.
"""

from __future__ import annotations

import math

from tilewright.kernels.cpu import LANES, PANEL_VECTORS, launch_threads
from tilewright.kernels.cpu_rates import bandwidth, multiply_adds, overlapped, start
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.cpu.config import CpuConfig, streams_a
from tilewright.kernels.matmul.problem import MatmulProblem

"""The most that one core does with a level's instructions; the device's peaks are those of its best level."""

_INNER_LOOP = 0.93  # of the multiply-add rate that the micro-kernel keeps
_GEMV = 0.5  # of it that gemv keeps: its queries come from L2
_PACK = 0.35  # cycles for an element that is transposed on the way, as in packing a weight
_COPY = 0.12  # and for one of A that is only copied
_SUM = 8.0  # cycles for the sum across a vector, one for every output of gemv's dot products
_FINISH = 0.25  # cycles for an element of C in the epilogue
_SCATTERED = (
    90.0  # cycles for an element of a C that no core's cache holds, over the columns that are written at once
)
_UNFINISHED = 0.12  # cycles for an element of C that waits for the next block of K
_HIDDEN = 0.2  # of the shorter of computing and reading, where plain operands are packed or streamed
_FETCHED = 0.9  # where packed ones are fetched ahead
_BARRIER = 0.5e-6


def expected_seconds(config: CpuConfig, problem: MatmulProblem, device: DeviceSpec) -> float:
    """The predicted time of one call."""
    threads = min(launch_threads(problem), device.units)
    if config.algorithm == "gemv":
        return _gemv(config, problem, device, threads)
    return _gemm(config, problem, device, threads)


def _ceil(size: int, step: int) -> int:
    return -(-size // step)


def _gemv(config: CpuConfig, problem: MatmulProblem, device: DeviceSpec, threads: int) -> float:
    rows = problem.m if streams_a(problem) else problem.n
    block = config.block_m if streams_a(problem) else config.block_n
    tasks = _ceil(max(rows, 1), block) * _ceil(max(problem.k, 1), config.block_k) * problem.batch_count
    used = max(1, min(threads, tasks))
    # The last round of tasks leaves threads idle.
    rounds = _ceil(tasks, used) * used / max(tasks, 1)
    reading = problem.bytes() / bandwidth(device, used, problem.bytes())
    rate = multiply_adds(device, config.isa, config.compute)
    computing = rounds * problem.flops() / 2 / (rate * used * _GEMV)
    if (problem.a_strides[-1] if streams_a(problem) else problem.b_strides[-2]) == 1:
        cycle = 2 * LANES[config.isa] / rate
        computing += rounds * _SUM * cycle * problem.batch_count * problem.m * problem.n / used
    return overlapped(reading, computing, _HIDDEN) + start(device, used)


def _gemm(config: CpuConfig, problem: MatmulProblem, device: DeviceSpec, threads: int) -> float:
    m, n, k = (max(size, 1) for size in (problem.m, problem.n, problem.k))
    lanes = LANES[config.isa]
    panel = PANEL_VECTORS * lanes
    parts = config.parts_m * config.parts_n
    solo = problem.batch_count > 1 and parts == 1
    used = max(1, min(threads, problem.batch_count if solo else parts))
    # Parts beyond the threads, or matrices of the batch, follow one another.
    rounds = _ceil(problem.batch_count, used) if solo else _ceil(parts, used) * problem.batch_count

    strips, panels = _ceil(m, config.tile_m), _ceil(n, panel)
    part_strips, part_panels = _ceil(strips, config.parts_m), _ceil(panels, config.parts_n)
    rows = min(m, math.ceil(m * part_strips / strips))
    strip_rows = rows / part_strips
    columns = min(part_panels * panel, _ceil(n, lanes) * lanes)
    rate = multiply_adds(device, config.isa, config.compute)
    cycle = 2 * lanes / rate  # of two multiply-adds of vectors

    # A step of a tile takes its multiply-adds or its loads, whichever is more, at two in a cycle.
    depth = 2 if config.compute == "bf16" else 1
    vectors = min(config.tile_n, columns) / lanes
    widening = vectors if problem.dtype.itemsize == 2 and depth == 1 else 0
    feeding = max(1.0, (strip_rows + 2 * vectors + widening) / (strip_rows * vectors))
    # Few strips with few rows draw B from L2 faster than it comes; many panels between them push it out of L1.
    few = min(1.0, 4 / part_strips) if part_strips > 1 else 0.0
    group_panels = min(max(config.block_n, config.tile_n), columns) / panel
    feeding += few * ((3 / strip_rows) ** 2 + 0.04 * (group_panels - 1))
    if min(m, config.block_m) * k * 4 / depth > device.llc_bytes / 5:
        feeding += 0.06  # A does not stay in the last-level cache from one group of columns to the next
    block_k, unit = min(config.block_k, k), 4 / depth
    stored = unit if config.pack_b != "private" or config.compute == "bf16" else problem.dtype.itemsize
    group_bytes = min(max(config.block_n, config.tile_n), columns) * block_k * stored
    if part_strips > 1:
        # The group shares L2 with strips of A and with the block that is fetched ahead.
        feeding += 0.12 * group_bytes / device.l2_bytes
    multiplying = rows * columns * k / (rate * _INNER_LOOP) * feeding

    k_blocks, m_blocks = _ceil(k, block_k), _ceil(m, config.block_m)
    groups = _ceil(part_panels * panel, max(config.block_n, config.tile_n))
    copiers = 1 if solo else config.parts_n
    packing = _cycles_for_a(config, problem, depth) * rows * k / depth * cycle / copiers
    if config.pack_b == "private":
        packing += _PACK * columns * k / depth * cycle * m_blocks
    elif config.pack_b == "shared":
        packing += _PACK * n * k / depth * cycle / used
    scattered = _SCATTERED / min(part_panels * panel, max(config.block_n, config.tile_n))
    if m * n * problem.out_dtype.itemsize <= device.l2_bytes:
        scattered = 0.0
    finishing = (
        (_FINISH + scattered + (_UNFINISHED * k_blocks if k_blocks > 1 else 0)) * rows * columns * cycle
    )

    # Strips are read again for every group of panels, panels for every strip: from L2 where they fit.
    core_cache = bandwidth(device, used, 0.0) / used
    strips_again = rows * k * unit * (groups - 1) if rows * block_k * unit > device.l2_bytes / 2 else 0.0
    panels_again = columns * k * stored * (part_strips - 1) if group_bytes > device.l2_bytes * 0.6 else 0.0
    panels_again += 0.2 * columns * k * stored * group_bytes / device.l2_bytes
    again = (strips_again + panels_again) / core_cache
    computing = rounds * (overlapped(multiplying, again, 0.8) + packing + finishing)

    traffic = float(problem.bytes())
    if config.pack_b == "shared" and n * k * unit > device.llc_bytes / 2:
        traffic += 2 * n * k * unit  # written, and read again
    reading = traffic / bandwidth(device, used, problem.bytes())
    hidden = _FETCHED if config.prefetch and config.pack_b == "frozen" else _HIDDEN
    barriers = 0.0 if solo or used == 1 else m_blocks * problem.batch_count * _BARRIER
    return overlapped(reading, computing, hidden) + barriers + start(device, used)


def _cycles_for_a(config: CpuConfig, problem: MatmulProblem, depth: int) -> float:
    """For an element of A: nothing where the kernel reads it in place (``copies_a`` in gemm.cpp)."""
    row, step = problem.a_strides[-2:]
    if step != 1:
        return _PACK
    as_is = problem.dtype.itemsize * depth == 4 and problem.k % depth == 0
    apart = row * problem.dtype.itemsize % 2048 != 0 or min(config.tile_m, problem.m) <= 8
    return 0.0 if as_is and apart else _COPY
