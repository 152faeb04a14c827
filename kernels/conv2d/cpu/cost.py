"""How long a CPU config should take: what the untuned choice and the order of trials rest on.

Pure functions of (config, problem, device). Constants in cycles or shares were measured on AMD Zen 5 with AVX-512.
"""

from __future__ import annotations

import math

from tilewright.kernels.conv2d.cpu import grouped, planes, weight_gradient, winograd_configs
from tilewright.kernels.conv2d.cpu.config import MAX_ROWS, CpuConfig, slab_bytes
from tilewright.kernels.conv2d.cpu.geometry import (
    conv_out_size,
    input_strides,
    output_channels,
    reduction_channels,
)
from tilewright.kernels.conv2d.cpu.winograd import ALGORITHMS
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cpu import LANES, PANEL_VECTORS, launch_threads
from tilewright.kernels.cpu_rates import bandwidth, multiply_adds, overlapped, start
from tilewright.kernels.interface import DeviceSpec

_INNER_LOOP = 0.93  # of the multiply-add rate that the tile keeps
_PACK = 0.35  # cycles for an element that is transposed on the way
_COPY = 0.12  # and for one that is only copied
_FINISH = 0.25  # cycles for an element of y in the epilogue
_TURN = 0.5  # more where y is transposed on the way
_TILE = 40.0  # cycles to begin and end a tile
_SEGMENT = 4.0  # cycles to go from one segment of the window to the next
_BARRIER = 0.5e-6
_HIDDEN = 0.5  # of the shorter of computing and reading


def expected_seconds(config: CpuConfig, problem: Conv2dProblem, device: DeviceSpec) -> float:
    """The predicted time of one call."""
    if config.algorithm == "weight_gradient":
        return weight_gradient.expected_seconds(config, problem, device)
    cut = config.block_h, config.block_w, config.block_n
    if config.algorithm == "grouped":
        return grouped.seconds(problem, device, config.isa, cut, frozen=config.pack == "frozen")
    if config.algorithm == "planes":
        return planes.seconds(problem, device, config.isa, cut, frozen=config.pack == "frozen")
    if config.algorithm in ALGORITHMS:
        return winograd_configs.expected_seconds(config, problem, device)
    threads = min(launch_threads(problem), device.units)
    lanes = LANES[config.isa]
    panel = PANEL_VECTORS * lanes
    depth = 2 if config.compute == "bf16" else 1
    channels, outputs = max(reduction_channels(problem), 1), max(output_channels(problem), 1)
    height, width = (max(size, 1) for size in conv_out_size(problem))
    block_h, block_w = min(config.block_h, height), min(config.block_w, width)
    positions = math.prod(problem.kernel)
    cycle = 2 * lanes / multiply_adds(device, config.isa, "f32")  # dot products of pairs take as long

    panels = _ceil(outputs, panel)
    part_panels = _ceil(panels, config.parts)
    blocks = _ceil(height, block_h) * _ceil(width, block_w)
    tasks = problem.batch * problem.groups * blocks * config.parts
    used = max(1, min(threads, tasks))
    rounds = _ceil(tasks, used)

    # A tile of two runs of pixels and one panel takes its multiply-adds or its loads, at two in a cycle.
    runs = _ceil(block_w, MAX_ROWS[config.isa] // 2)
    run = _ceil(block_w, runs)
    tiles = _ceil(block_h * runs, 2) * part_panels
    # The phases of an input gradient share the window's positions out between them.
    positions = (
        positions if problem.direction == "forward" else max(1, positions // math.prod(problem.stride))
    )
    steps = positions * _ceil(channels, depth)
    vectors = _ceil(min(outputs, panel), lanes)
    widening = vectors if problem.dtype.itemsize == 2 and depth == 1 else 0
    per_step = max(2 * run * vectors, 2 * run + 2 * vectors + widening, 8) / 2
    unit = 4 / depth
    group_bytes = min(max(config.block_n, panel), outputs) * positions * channels * unit
    slab = slab_bytes(problem, block_h, block_w, config.compute)
    if group_bytes + slab > device.l2_bytes:
        per_step *= 1.0 + 0.1 * min(4.0, (group_bytes + slab) / device.l2_bytes - 1)
    multiplying = tiles * (steps * per_step / _INNER_LOOP + positions * _SEGMENT + _TILE) * cycle

    filling = _COPY if input_strides(problem)[1] == 1 else _PACK
    filled = slab / 4 * depth / max(1.0, config.parts / used if config.parts < used else 1.0)
    elements = block_h * block_w * min(part_panels * panel, outputs)
    finishing = _FINISH + (_TURN if _turned(problem) else 0.0)
    task = multiplying + (filling * filled + finishing * elements) * cycle
    packing = 0.0
    if config.pack == "shared":
        packing = _PACK * outputs * problem.groups * positions * channels / depth * cycle / used + _BARRIER

    reading = problem.bytes() / bandwidth(device, used, problem.bytes())
    return overlapped(rounds * task + packing, reading, _HIDDEN) + start(device, used)


def _turned(problem: Conv2dProblem) -> bool:
    return problem.out_strides[1] != 1


def _ceil(size: int, step: int) -> int:
    return -(-size // step)
