"""How long a TritonConfig should take: ranks configs before they are timed, and orders `configs`.

Pure functions of sizes and rates; `kernels/triton_cost.py` has the arithmetic of tiles.
"""

from __future__ import annotations

import math

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import tile
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.geometry import channels_last_copy, group_channels, tap_steps
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.triton_cost import (
    GPU_BANDWIDTH_SHARE,
    TILE_LATENCY,
    Product,
    product_seconds,
    split_seconds,
)
from tilewright.kernels.triton_launch import cdiv

# Share of the throughput of a plain product that each way of fetching operands keeps: guesses, on the careful side,
# until they are measured. Gathering costs addresses and masks in every step; the tensor memory accelerator has them
# for free; element by element, a step waits for its loads.
_GATHER_SHARE = 0.8
_PIXELS_SHARE = 0.65  # the weight's gradient finds every pixel's place anew
_SINGLES_SHARE = 0.3
_STEP_LATENCY = 0.5e-6  # from L2, the addresses' arithmetic included
_L1_BYTES_PER_CLOCK = 64  # per multiprocessor: half of what L1 delivers to perfectly aligned vectors
_OPERATIONS_PER_TAP = 3  # of fp32 units: two conversions and a multiply-add


def expected_seconds(config: TritonConfig, problem: Conv2dProblem, device: DeviceSpec) -> float:
    """The predicted time of one call: positive and finite for every config that `rejects` lets pass."""
    seconds = 0.0
    if config.layout == "nhwc":
        copied = channels_last_copy(problem)
        seconds = _copy_seconds(problem, copied, device)
        problem = copied
    if math.prod(problem.out_shape) == 0:
        return seconds + device.launch_seconds
    if config.algorithm == "depthwise":
        return seconds + _depthwise_seconds(config, problem, device)
    if problem.direction == "weight_gradient":
        return seconds + _weight_gradient_seconds(config, problem, device)
    return seconds + _image_seconds(config, problem, device)


def _copy_seconds(problem: Conv2dProblem, copied: Conv2dProblem, device: DeviceSpec) -> float:
    itemsize, seconds = problem.dtype.itemsize, 0.0
    for shape, strides, new, kept in (
        (problem.x_shape, problem.x_strides, copied.x_strides, False),
        (problem.weight_shape, problem.weight_strides, copied.weight_strides, problem.frozen_weight),
        (problem.y_shape, problem.y_strides, copied.y_strides, False),
    ):
        if strides != new and not kept:
            # A transposition: half of the bandwidth is what torch's copy draws.
            moved = 2 * math.prod(shape) * itemsize
            seconds += 2 * moved / (device.bandwidth * GPU_BANDWIDTH_SHARE) + device.launch_seconds
    return seconds


def _image_seconds(config: TritonConfig, problem: Conv2dProblem, device: DeviceSpec) -> float:
    """Forward and the gradient of the input: pixels × channels."""
    c, k = group_channels(problem)
    itemsize = problem.dtype.itemsize
    forward = problem.direction == "forward"
    n, summed = (k, c) if forward else (c, k)
    shape = problem.x_shape if forward else problem.y_shape
    rows = tile.pixels(problem)
    classes = 1 if forward else math.prod(problem.stride)
    taps = math.prod(problem.kernel) if forward else math.prod(map(cdiv, problem.kernel, tap_steps(problem)))
    # A pixel that one window has brought is there for those around it: a row costs memory its share of the image.
    row_bytes = summed * itemsize * min(taps, shape[0] * shape[2] * shape[3] / max(rows, 1))
    product = Product(
        batch=problem.groups * classes,
        rows=rows if config.algorithm != "descriptor" else config.block_m * _boxes(config, problem),
        columns=n,
        steps=tile.steps(config, problem),
        bytes=problem.bytes(),
        operand_bytes=itemsize * (math.prod(shape) + math.prod(problem.weight_shape)),
        row_bytes=row_bytes,
        column_bytes=summed * taps * itemsize,
    )
    share = 1.0 if config.algorithm == "descriptor" else _GATHER_SHARE
    if config.algorithm != "descriptor" and tile.singles(config, problem):
        share *= _SINGLES_SHARE
    return product_seconds(
        product,
        tile.image_tile(config, problem),
        config.split_k,
        config.group_m,
        device,
        share,
        _STEP_LATENCY,
    )


def _boxes(config: TritonConfig, problem: Conv2dProblem) -> int:
    c, k = group_channels(problem)
    n = k if problem.direction == "forward" else c
    return tile.programs(config, problem) // (cdiv(n, config.block_n) * config.split_k * problem.groups)


def _weight_gradient_seconds(config: TritonConfig, problem: Conv2dProblem, device: DeviceSpec) -> float:
    c, k = group_channels(problem)
    itemsize, taps = problem.dtype.itemsize, math.prod(problem.kernel)
    flat = config.algorithm == "few_channels"
    columns = taps * c if flat else taps * cdiv(c, config.block_n) * config.block_n
    operands = itemsize * (math.prod(problem.x_shape) + math.prod(problem.y_shape))
    pixels = problem.batch * problem.m
    product = Product(
        batch=problem.groups,
        rows=k,
        columns=columns,
        steps=tile.steps(config, problem),
        bytes=problem.bytes(),
        operand_bytes=operands,
        row_bytes=pixels * itemsize,
        column_bytes=pixels * itemsize / taps,
    )
    share = _PIXELS_SHARE * (_SINGLES_SHARE if tile.singles(config, problem) else 1.0)
    seconds = product_seconds(
        product,
        tile.image_tile(config, problem),
        config.split_k,
        config.group_m,
        device,
        share,
        _STEP_LATENCY,
    )
    if config.split_k > 1:
        # Padding columns are not stored.
        seconds -= split_seconds(problem.groups * k * columns, config.split_k, device)
        seconds += split_seconds(math.prod(problem.weight_shape), config.split_k, device)
    return seconds


def _depthwise_seconds(config: TritonConfig, problem: Conv2dProblem, device: DeviceSpec) -> float:
    c, k = group_channels(problem)
    if problem.direction == "weight_gradient":
        # Of dy once per row of the window, of x for every tap.
        products = math.prod(problem.y_shape) * math.prod(problem.kernel) * c
        loads = products + products // problem.kernel[1]
        wasted = tile.taps_together(problem) * cdiv(problem.kernel[1], tile.taps_together(problem))
        loads = loads * wasted // problem.kernel[1]
    elif problem.direction == "forward":
        loads = math.prod(problem.out_shape) * math.prod(problem.kernel) * c
    else:
        taps = math.prod(map(cdiv, problem.kernel, tap_steps(problem)))
        loads = math.prod(problem.out_shape) * taps * k
    singles = tile.depthwise_singles(problem)
    # A load of one element takes as long as one of a vector.
    width = 4 if singles else problem.dtype.itemsize
    cached = loads * width / (_L1_BYTES_PER_CLOCK * device.units * device.clock_hz)
    compute = 2.0 * _OPERATIONS_PER_TAP * loads / device.peak_fp32
    blocks = tile.programs(config, problem)
    channels = problem.out_shape[0 if problem.direction == "weight_gradient" else 1]
    if problem.direction == "weight_gradient":
        blocks *= problem.kernel[0] * cdiv(problem.kernel[1], tile.taps_together(problem)) * c
    waves = cdiv(blocks, device.units * max(1, 32 // config.num_warps))
    filled = blocks / (waves * device.units * max(1, 32 // config.num_warps))
    tiles = cdiv(channels, config.block_n) * config.block_n / max(channels, 1)
    memory = problem.bytes() / (device.bandwidth * GPU_BANDWIDTH_SHARE)
    busy: float = max(memory, cached * tiles, compute * tiles) / max(filled, 0.05)
    if config.split_k > 1:
        busy += split_seconds(math.prod(problem.weight_shape), config.split_k, device)
    return busy + TILE_LATENCY + device.launch_seconds
