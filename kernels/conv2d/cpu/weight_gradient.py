"""What ``weight_gradient.cpp`` takes, how much memory and time: the configs of dw."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tilewright.kernels.conv2d.cpu.config import MAX_ROWS, CpuConfig
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cpu import LANES, PANEL_VECTORS, launch_threads
from tilewright.kernels.cpu_rates import bandwidth, multiply_adds, overlapped, start
from tilewright.kernels.interface import DeviceSpec

_OUTPUTS = (112, 56, 28)  # channels of dy at a time; whole tiles
_CHANNELS = (256, 128, 64, 32)  # and of x
_MOST_PARTS_BYTES = 64 << 20  # of sums, where pixels are shared out

_INNER_LOOP = 0.93  # of the multiply-add rate that a tile keeps
_COPY = 0.12  # cycles for an element of x or dy that is copied
_TURN = 0.35  # and for one that is transposed on the way
_WRITE = 1.0  # cycles for an element of dw
_SCATTER = 2.0  # where its input channels do not lie side by side
_HIDDEN = 0.5
_BARRIER = 0.5e-6


@dataclass(frozen=True, slots=True)
class _Sizes:
    """``Layout`` in weight_gradient.cpp, each an upper bound."""

    channels: int  # values of a position of the window
    positions: int
    block_c: int
    chunks_c: int
    block_k: int
    chunks_k: int
    blocks: int
    slab_values: int
    dy_values: int
    sums_values: int  # of one part


def _sizes(config: CpuConfig, problem: Conv2dProblem) -> _Sizes:
    lanes, most_rows = LANES[config.isa], MAX_ROWS[config.isa]
    panel = PANEL_VECTORS * lanes
    in_channels = max(problem.in_channels // problem.groups, 1)
    outputs = max(problem.out_channels // problem.groups, 1)
    kernel_h, kernel_w = problem.kernel
    stride_h, stride_w = problem.stride
    merged = (
        kernel_w > 1
        and problem.dilation[1] == 1
        and in_channels < lanes
        and in_channels * stride_w * 4 % 512 != 0
    )
    channels = kernel_w * in_channels if merged else in_channels
    positions = kernel_h if merged else kernel_h * kernel_w
    block_c = channels if merged else min(_round_up(config.block_c, panel), channels)
    block_k = min(_round_up(config.block_n, most_rows), outputs)
    height, width = (max(size, 1) for size in problem.out_size)
    rows = max(problem.batch, 1) * height
    block_rows = min(config.block_h, rows)
    images = min(block_rows, _ceil(block_rows, height) + 1)
    around_h, around_w = (
        (size - 1) * apart for size, apart in zip(problem.kernel, problem.dilation, strict=True)
    )
    columns = (width - 1) * stride_w + around_w + 1
    slab_rows = block_rows * (1 if kernel_h == 1 else stride_h) + images * (around_h + 1)
    pixel = in_channels if merged else block_c + 16
    return _Sizes(
        channels=channels,
        positions=positions,
        block_c=block_c,
        chunks_c=_ceil(channels, block_c),
        block_k=block_k,
        chunks_k=_ceil(outputs, block_k),
        blocks=_ceil(rows, block_rows),
        slab_values=slab_rows * columns * pixel + panel,
        dy_values=block_rows * width * (block_k + lanes) + lanes,
        sums_values=problem.groups * outputs * positions * _round_up(channels, lanes),
    )


def workspace_bytes(config: CpuConfig, problem: Conv2dProblem) -> int:
    """An upper bound of the scratch memory of a launch."""
    sizes = _sizes(config, problem)
    own = 4 * (sizes.slab_values + sizes.dy_values) + 16 * (config.block_h + 8) + 1024
    return 4 * config.parts * sizes.sums_values + launch_threads(problem) * own + 512


def configs(problem: Conv2dProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    """Blocks that L2 holds, in every cut of the channels; pixels are shared out where channels are too few."""
    threads = launch_threads(problem)
    rows = max(problem.batch, 1) * max(problem.out_size[0], 1)
    heights = sorted({min(rows, size) for size in (1, 2, 4, 7, 8, 14, 16, 28, 56, 112, 224)})
    for block_n, block_c in itertools.product(_OUTPUTS, _CHANNELS):
        fitting = []
        for block_h in heights:
            config = CpuConfig("weight_gradient", device.arch, block_h, 1, block_n, block_c=block_c)
            sizes = _sizes(config, problem)
            if 4 * (sizes.slab_values + sizes.dy_values) <= 0.6 * device.l2_bytes or block_h == heights[0]:
                fitting.append((block_h, sizes))
        for block_h, sizes in fitting[-3:]:
            for parts in {1, threads}:
                if parts > 1 and (4 * parts * sizes.sums_values > _MOST_PARTS_BYTES or sizes.blocks < parts):
                    continue
                yield CpuConfig(
                    "weight_gradient", device.arch, block_h, 1, block_n, parts=parts, block_c=block_c
                )


def expected_seconds(config: CpuConfig, problem: Conv2dProblem, device: DeviceSpec) -> float:
    """The predicted time of one call."""
    threads = min(launch_threads(problem), device.units)
    lanes = LANES[config.isa]
    sizes = _sizes(config, problem)
    cycle = 2 * lanes / multiply_adds(device, config.isa, "f32")
    width = max(problem.out_size[1], 1)
    pixels = max(problem.batch, 1) * max(problem.out_size[0], 1) * width
    strips = _ceil(sizes.block_k, MAX_ROWS[config.isa])
    rows = sizes.block_k / strips
    vectors = _ceil(sizes.block_c, lanes)
    per_pair = max(2 * rows, rows + 2, 8) / 2  # cycles for a pixel of a tile of two vectors
    tiles = sizes.positions * strips * vectors / 2
    multiplying = tiles * pixels * (per_pair / _INNER_LOOP + 6 / width)
    # Sums wait in L2, or beyond it, from block to block.
    waiting = 2.0 * sizes.block_k * sizes.positions * vectors * sizes.blocks
    if 4 * sizes.block_k * sizes.positions * sizes.block_c > device.l2_bytes / 2:
        waiting *= 3
    turned = problem.x_strides[1] != 1
    copying = (_TURN if turned else _COPY) * (sizes.slab_values + sizes.dy_values) * sizes.blocks
    tasks = config.parts * problem.groups * sizes.chunks_k * sizes.chunks_c
    used = max(1, min(threads, tasks))
    task = (multiplying + waiting + copying) / config.parts
    writing = (_WRITE if problem.weight_strides[1] == 1 else _SCATTER) * sizes.sums_values * config.parts
    computing = (_ceil(tasks, used) * task + writing / threads) * cycle
    reading = problem.bytes() / bandwidth(device, used, problem.bytes())
    return overlapped(computing, reading, _HIDDEN) + _BARRIER + start(device, used)


def _ceil(size: int, step: int) -> int:
    return -(-size // step)


def _round_up(size: int, step: int) -> int:
    return _ceil(size, step) * step
