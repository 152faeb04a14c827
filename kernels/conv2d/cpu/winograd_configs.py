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

_INNER_LOOP = 0.96  # of the multiply-add rate that a register tile keeps
_CALL = 35.0  # cycles to begin and end one
_PATCH = 165.0  # cycles to copy and transform a vector of a patch
_TURNED_PATCH = 200.0  # more where channels of x do not lie side by side
_SUMS = 125.0  # cycles to transform a vector of a tile's sums, and finish it
_TURNED_SUMS = 180.0  # more where y is transposed on the way
_WEIGHT = 260.0  # cycles to transform a vector of the weight
_FAR = 24.0  # bytes that a core draws from beyond L2 in a cycle
_FIRST = 0.25  # of the time for that which a register tile cannot hide
_BARRIER = 1e-6
_HIDDEN = 0.2  # of the shorter of computing and reading


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
    lanes, phased = LANES[config.isa], config.algorithm == "winograd_phased"
    channels, outputs = max(reduction_channels(problem), 1), max(output_channels(problem), 1)
    cycle = 2 * lanes / multiply_adds(device, config.isa, "f32")
    tiles = tiling(config, problem)
    tasks = tiles.blocks * problem.groups * config.parts
    used = max(1, min(threads, tasks))
    rounds = _ceil(tasks, used)
    share = tiles.positions / POSITIONS  # of positions that a tile has
    panels = _ceil(tiles.panels, config.parts)

    inner = problem.x_strides if problem.direction == "forward" else problem.y_strides
    patch = _PATCH + (_TURNED_PATCH if inner[1] != 1 else 0.0)
    filling = _ceil(channels, lanes) * patch * share * cycle  # of a tile
    sums = _SUMS + (_TURNED_SUMS if problem.out_strides[1] != 1 else 0.0)
    finishing = min(panels * PANEL_VECTORS, _ceil(outputs, lanes)) * sums * share * cycle
    transforming = rounds * tiles.block * (finishing + (0.0 if phased else filling))

    # The transformed weight is four times the weight. Each panel is fetched while the one before multiplies, again
    # for every block where the last-level cache does not keep them.
    weight = weight_bytes(tiles, channels, problem.groups)
    fetching = weight / bandwidth(device, used, weight)
    again = rounds if weight > device.llc_bytes / 2 else 1
    multiplying = max(
        rounds * panels * _products(tiles, channels, config, device) * share * cycle, again * fetching
    )

    reading = problem.bytes() / bandwidth(device, used, problem.bytes())
    if phased:
        # All patches leave for whatever holds them, and come back.
        patches = 3 * tiles.patches_bytes * tiles.blocks * problem.groups
        transforming += tiles.tiles * problem.groups * filling / used + _BARRIER
        reading += patches / bandwidth(device, used, patches)
    if config.pack == "shared":
        vectors = problem.groups * channels * tiles.panels * PANEL_VECTORS
        transforming += max(vectors * _WEIGHT * cycle / used, 2 * fetching) + _BARRIER
    return overlapped(multiplying + transforming, reading, _HIDDEN) + start(device, used)


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
    first = _FIRST * panel / _FAR  # of the strips of a block: the others find the panel in L1
    return POSITIONS * max(multiplying + first, 0.0 if stays else panel / _FAR)


def _ceil(size: int, step: int) -> int:
    return -(-size // step)
