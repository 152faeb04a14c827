"""What Python knows of ``planes`` (planes.cpp): memory, candidates, time.

Constants in cycles were measured on AMD Zen 5 with AVX-512.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tilewright.kernels.conv2d.cpu.geometry import (
    conv_out_size,
    conv_stride,
    input_strides,
    output_channels,
    reduction_channels,
)
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cpu import LANES, PANEL_VECTORS, launch_threads
from tilewright.kernels.cpu_rates import bandwidth, multiply_adds, overlapped, start
from tilewright.kernels.interface import DeviceSpec

_ROWS = 7  # of y in a tile: ``kPlaneRows`` in planes_tile.h
_VECTORS = {"portable": 1, "avx2": 1, "avx512": 2}  # in a row of a tile: ``kPlaneVectors``

_FILL = 5.0  # cycles for a vector of the slab,
_SPLIT = 6.5  # for one whose columns are taken apart,
_PICK = 3.0  # for a value where x is not contiguous along rows
_TILE = 35.0  # cycles to begin and end a tile
_CHANNEL = 90.0  # and a channel of a block
_TASK = 200.0
_SPILLED = 0.25  # of the time, where the slab does not fit L1; twice that where it takes a good part of L2
_KNOWN, _ANY = (
    1.1,
    3.0,
)  # of the time of the multiply-adds, where windows are compiled for their size, and else
_FINISH = 4.0  # cycles for a vector of y that the tile does not write itself
_HIDDEN = 0.8  # of the shorter of computing and reading
_PACK = 1.5  # cycles for a value of the weight
_BARRIER = 0.5e-6


def refusal(problem: Conv2dProblem) -> str | None:
    """Why `planes` does not take a convolution, if it does not."""
    if reduction_channels(problem) < 1:
        return "planes takes convolutions that have input channels"
    step = problem.out_strides[3] * (1 if problem.direction == "forward" else problem.stride[1])
    if step != 1:
        return f"planes writes along the image's rows, whose pixels must be contiguous; they are {step} apart"
    return None


def _slab_floats(problem: Conv2dProblem, isa: str, block_h: int, block_w: int, block_n: int) -> int:
    (height, width), (stride_h, stride_w) = conv_out_size(problem), conv_stride(problem)
    (kernel_h, kernel_w), (dilation_h, dilation_w) = problem.kernel, problem.dilation
    lanes = LANES[isa]
    covered = (min(block_h, max(height, 1)) - 1) * stride_h + (kernel_h - 1) * dilation_h + 1
    phases = min(stride_w, (kernel_w - 1) * dilation_w + 1)
    phase = min(block_w, max(width, 1)) + (kernel_w - 1) * dilation_w // stride_w + lanes
    return _groups(problem, block_n) * reduction_channels(problem) * covered * phases * phase


def _groups(problem: Conv2dProblem, block_n: int) -> int:
    return max(1, min(problem.groups, block_n // max(output_channels(problem), 1)))


def workspace_bytes(problem: Conv2dProblem, isa: str, block_h: int, block_w: int, block_n: int) -> int:
    """An upper bound of the scratch memory of a launch whose weight is not packed beforehand."""
    height, width = (max(size, 1) for size in conv_out_size(problem))
    slab = 4 * _slab_floats(problem, isa, block_h, block_w, block_n) + 512
    sums = 4 * min(block_h, height) * (min(block_w, width) + LANES[isa]) + 512
    weight = (
        problem.groups * output_channels(problem) * reduction_channels(problem) * math.prod(problem.kernel)
    )
    return launch_threads(problem) * (slab + sums) + 4 * weight + 512


def candidates(problem: Conv2dProblem, device: DeviceSpec) -> Iterator[tuple[int, int, int]]:
    """(block_h, block_w, block_n) worth trying: where a group is smaller than a panel of `direct`."""
    if refusal(problem) is not None or device.arch not in LANES or problem.groups == 1:
        return
    outputs = output_channels(problem)
    if max(reduction_channels(problem), outputs) > PANEL_VECTORS * LANES[device.arch]:
        return
    height, width = (max(size, 1) for size in conv_out_size(problem))
    for block_h in sorted({-(-height // cut) for cut in (1, 2, 4, 8)}):
        for groups in (1, 2, 4, 8, 16, 32):
            blocks = block_h, width, min(groups, problem.groups) * outputs
            if groups == 1 or 4 * _slab_floats(problem, device.arch, *blocks) <= device.l2_bytes / 2:
                yield blocks


def seconds(
    problem: Conv2dProblem, device: DeviceSpec, isa: str, blocks: tuple[int, int, int], *, frozen: bool
) -> float:
    """The predicted time of one call."""
    threads = min(launch_threads(problem), device.units)
    lanes = LANES[isa]
    cycle = 2 * lanes / multiply_adds(device, isa, "f32")
    height, width = (max(size, 1) for size in conv_out_size(problem))
    block_h, block_w = min(blocks[0], height), min(blocks[1], width)
    groups, inputs, outputs = (
        _groups(problem, blocks[2]),
        reduction_channels(problem),
        output_channels(problem),
    )
    (kernel_h, kernel_w), (stride_h, stride_w) = problem.kernel, conv_stride(problem)

    known = isa != "portable" and kernel_h == kernel_w and kernel_w in (3, 5) and problem.dilation == (1, 1)
    known = known and stride_h == stride_w <= 2
    vectors = -(-block_w // lanes)
    rows = -(-block_h // _ROWS)
    tiles = rows * -(-vectors // _VECTORS[isa])
    per_row = _KNOWN if known else _ANY
    multiplying = inputs * kernel_h * kernel_w * min(block_h, rows * _ROWS) * vectors / 2 * per_row
    plain = (
        problem.activation in ("none", "relu") and problem.residual_dtype is None and not problem.keep_preact
    )
    finish = 0.0 if plain and problem.dtype.itemsize == 4 else _FINISH * block_h * vectors
    channel = multiplying + tiles * _TILE + _CHANNEL + finish

    slab = _slab_floats(problem, isa, *blocks) / (groups * inputs)
    if input_strides(problem)[3] == 1 and stride_w <= 2:
        fill = slab / lanes * (_FILL if stride_w == 1 else _SPLIT)
    else:
        fill = slab * _PICK
    task = groups * (inputs * fill + outputs * channel) + _TASK
    held = 4 * groups * inputs * slab
    task *= 1 + _SPILLED * ((held > device.l1_bytes) + (held > device.l2_bytes / 4))

    tasks = problem.batch * -(-height // block_h) * -(-width // block_w) * -(-problem.groups // groups)
    used = max(1, min(threads, tasks))
    packing = 0.0
    if not frozen:
        packing = _PACK * problem.groups * outputs * inputs * kernel_h * kernel_w * cycle / used + _BARRIER
    reading = problem.bytes() / bandwidth(device, used, problem.bytes())
    return overlapped(-(-tasks // used) * task * cycle, reading, _HIDDEN) + packing + start(device, used)
