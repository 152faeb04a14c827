"""Which Winograd configs are worth trying, and how long they should take.

Constants in cycles were measured on AMD Zen 5 with AVX-512.
"""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.kernels.conv2d.cpu.config import (
    MAX_ROWS,
    CpuConfig,
    tiling,
)
from tilewright.kernels.conv2d.cpu.geometry import conv_out_size, output_channels, reduction_channels
from tilewright.kernels.conv2d.cpu.winograd import ALGORITHMS, POSITIONS, Tiling, weight_bytes
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cpu import LANES, PANEL_VECTORS, launch_threads
from tilewright.kernels.cpu_rates import bandwidth, multiply_adds, overlapped, start
from tilewright.kernels.interface import DeviceSpec

_GROUPS = (1, 2, 4, 8)  # panels
_STRIPS = (1, 2, 3, 4, 6, 9)  # of register tiles in a block

_INNER_LOOP = 0.95  # of the multiply-add rate that a register tile keeps
_CALL = 35.0  # cycles to begin and end one
_PATCH = 240.0  # cycles to transform a vector of a patch
_TURNED_PATCH = 180.0  # more where channels of x do not lie side by side
_SUMS = 210.0  # cycles to transform a vector of a tile's sums, and finish it
_TURNED_SUMS = 90.0  # more where y is transposed on the way
_WEIGHT = 420.0  # cycles to transform a vector of the weight
_FAR = 24.0  # bytes that a core draws from beyond L2 in a cycle
_BARRIER = 1e-6
_HIDDEN = 0.5  # of the shorter of computing and reading


def configs(problem: Conv2dProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    """Those worth ranking, whether or not the problem's precision admits them."""
    if device.arch not in MAX_ROWS:
        return
    threads, pack = launch_threads(problem), "frozen" if problem.frozen_weight else "shared"
    panel = PANEL_VECTORS * LANES[device.arch]
    panels = max(1, _ceil(output_channels(problem), panel))
    tiles = Tiling.of(device.arch, problem.batch, conv_out_size(problem), 1, 1, 1).tiles
    for algorithm in ALGORITHMS:
        for parts in sorted({1, min(2, threads), threads}):
            for block in sorted(set(_blocks(tiles, threads, parts, MAX_ROWS[device.arch]))):
                for group in _GROUPS:
                    if parts <= panels and (group == 1 or group <= _ceil(panels, parts)):
                        yield CpuConfig(algorithm, device.arch, 1, block, group * panel, parts, pack=pack)


def _blocks(tiles: int, threads: int, parts: int, rows: int) -> Iterator[int]:
    """Sizes of blocks: whole strips of register tiles, or so that there are as many blocks as threads share evenly."""
    for strips in _STRIPS:
        count = _ceil(tiles, strips * rows)
        yield _ceil(tiles, count)
        if parts < threads:
            yield _ceil(tiles, min(tiles, _ceil(count * parts, threads) * threads // parts))


def expected_seconds(config: CpuConfig, problem: Conv2dProblem, device: DeviceSpec) -> float:
    """The predicted time of one call."""
    threads = min(launch_threads(problem), device.units)
    lanes = LANES[config.isa]
    channels, outputs = max(reduction_channels(problem), 1), max(output_channels(problem), 1)
    cycle = 2 * lanes / multiply_adds(device, config.isa, config.compute)
    tiles = tiling(config, problem)
    part_panels = _ceil(tiles.panels, config.parts)
    tasks = tiles.blocks * problem.groups * config.parts
    used = max(1, min(threads, tasks))
    rounds = _ceil(tasks, used)
    share = tiles.positions / POSITIONS  # of positions that a tile has

    vectors = min(part_panels * PANEL_VECTORS, _ceil(outputs, lanes))
    multiplying = part_panels * _products(tiles, channels, config, device) * share
    finishing = (
        tiles.block * vectors * (_SUMS + (_TURNED_SUMS if problem.out_strides[1] != 1 else 0.0)) * share
    )
    inner = problem.x_strides if problem.direction == "forward" else problem.y_strides
    filling = _ceil(channels, lanes) * (_PATCH + (_TURNED_PATCH if inner[1] != 1 else 0.0)) * share
    task = multiplying + finishing
    once = 0.0
    if config.algorithm == "winograd_phased":
        once = tiles.tiles * problem.groups * filling * cycle / used + _BARRIER
    else:
        task += tiles.block * filling
    if config.pack == "shared":
        vectors_of_weight = problem.groups * channels * tiles.panels * PANEL_VECTORS
        once += vectors_of_weight * _WEIGHT * cycle / used + _BARRIER

    reading = problem.bytes() / bandwidth(device, used, problem.bytes())
    # The transformed weight is four times the weight; every block reads it, from memory only the first.
    weight = weight_bytes(tiles, channels, problem.groups)
    reading += weight / bandwidth(device, used, weight)
    return overlapped(rounds * task * cycle + once, reading, _HIDDEN) + start(device, used)


def _products(tiles: Tiling, channels: int, config: CpuConfig, device: DeviceSpec) -> float:
    """Cycles for one panel of one block: a matrix product at each of 36 positions."""
    strips = _ceil(tiles.block, MAX_ROWS[config.isa])
    rows = _ceil(tiles.block, strips)
    # A step takes its multiply-adds or its loads, at two in a cycle.
    step = max(PANEL_VECTORS * rows, rows + PANEL_VECTORS, 8) / 2
    multiplying = strips * (channels * step / _INNER_LOOP + _CALL)
    # A panel comes from beyond L2 unless all of them stay there; it is fetched while the one before multiplies.
    panel = 4 * channels * tiles.panel
    stays = POSITIONS * panel * tiles.panels + tiles.patches_bytes < device.l2_bytes
    return POSITIONS * max(multiplying, 0.0 if stays else panel / _FAR)


def _ceil(size: int, step: int) -> int:
    return -(-size // step)
