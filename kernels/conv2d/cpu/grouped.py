"""What Python knows of ``grouped`` (grouped.cpp): how channels are dealt to vectors, memory, candidates, time.

Constants in cycles or shares were measured on AMD Zen 5 with AVX-512.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

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

MOST_CHANNELS = 64
"""Of one group. Larger groups fill the vectors of ``direct``, which broadcasts instead of permuting."""

_TILE = {"portable": 10, "avx2": 10, "avx512": 14}
"""The most output pixels of a register tile: ``most_pixels`` in grouped_tile.h."""

_COPY = 6.0  # cycles for a vector that is copied into the slab
_TURN = 11.0  # and for one that is transposed on the way
_STEP = 2.0  # cycles to begin and end a tile
_STRIP = 13.0  # cycles to go to the next pixels of a block, and to the next block
_TASK = 500.0
_STORE = 0.5  # cycles for a vector of y, and for one that is transposed on the way
_FINISH = 3.0
_TURNED = 15.0
_BARRIER = 0.5e-6
_HIDDEN = 0.25  # of the shorter of computing and reading
_PACK = 2.0  # cycles for a vector of the weight
_FROM_L2 = 1.75  # cycles for a line
_NARROW = 0.3  # of the time to read, lost where one vector is read of each pixel; halves with each doubling
_SCATTERED = 0.7  # and more where the other channels come only after L2 has been overwritten
_L1 = 0.6  # of it is there for the rows of a window
_PERMUTE = {"portable": 4.0, "avx2": 0.3, "avx512": 0.1}  # cycles for an input that is permuted


@dataclass(frozen=True, slots=True)
class Dealing:
    """How output channels are dealt to vectors: ``Dealing`` in grouped.cpp."""

    used: int  # lanes
    span: int  # input channels of a vector
    vectors: int

    @classmethod
    def of(cls, problem: Conv2dProblem, isa: str) -> Dealing:
        lanes, groups = LANES[isa], max(problem.groups, 1)
        inputs, outputs = max(reduction_channels(problem), 1), max(output_channels(problem), 1)
        together = max(1, min(groups, lanes // max(inputs, outputs)))
        each = -(-outputs // lanes)
        vectors = groups * each if each > 1 else -(-groups // together)
        return cls(min(together * outputs, lanes), together * inputs, vectors)

    def block(self, block_n: int) -> int:
        """Vectors of a block of channels, at most."""
        return max(1, min(self.vectors, block_n // self.used))


def refusal(problem: Conv2dProblem) -> str | None:
    """Why `grouped` does not take a convolution, if it does not."""
    inputs, outputs = reduction_channels(problem), output_channels(problem)
    if inputs < 1:
        return "grouped takes convolutions that have input channels"
    if max(inputs, outputs) > MOST_CHANNELS:
        return f"grouped takes groups of at most {MOST_CHANNELS} channels; they have {inputs} and {outputs}"
    return None


def slab_bytes(problem: Conv2dProblem, isa: str, block_h: int, block_w: int, block_n: int) -> int:
    """An upper bound of the part of x that a block's windows cover."""
    deal = Dealing.of(problem, isa)
    channels = min(problem.groups * reduction_channels(problem), deal.block(block_n) * deal.span)
    covered = 4 * (channels + 2 * LANES[isa])
    for block, size, kernel, stride, dilation in zip(
        (block_h, block_w),
        conv_out_size(problem),
        problem.kernel,
        conv_stride(problem),
        problem.dilation,
        strict=True,
    ):
        covered *= (min(block, max(size, 1)) - 1) * stride + (kernel - 1) * dilation + 1
    return covered


def workspace_bytes(problem: Conv2dProblem, isa: str, block_h: int, block_w: int, block_n: int) -> int:
    """An upper bound of the scratch memory of a launch whose weight is not packed beforehand."""
    lanes, deal = LANES[isa], Dealing.of(problem, isa)
    slab = slab_bytes(problem, isa, block_h, block_w, block_n) + 512
    sums = 4 * 14 * (deal.block(block_n) * deal.used + 2 * lanes) + 512
    bias = 4 * problem.groups * output_channels(problem) + 512
    packed = 4 * deal.vectors * lanes * reduction_channels(problem) * math.prod(problem.kernel) + 512
    return launch_threads(problem) * (slab + sums + bias) + packed


def candidates(problem: Conv2dProblem, device: DeviceSpec) -> Iterator[tuple[int, int, int]]:
    """(block_h, block_w, block_n) worth trying: where a group is smaller than a panel of `direct`."""
    if refusal(problem) is not None or device.arch not in LANES or problem.groups == 1:
        return
    if max(reduction_channels(problem), output_channels(problem)) > PANEL_VECTORS * LANES[device.arch]:
        return
    deal = Dealing.of(problem, device.arch)
    height, width = (max(size, 1) for size in conv_out_size(problem))
    copies = _copies(problem, device.arch)
    widths = {width, *(-(-width // cut) for cut in (2, 4) if width >= 112 and copies)}
    vectors = {count for count in (1, 2, 4, 8, 16, 32) if count < deal.vectors} | {deal.vectors}
    for block_w in sorted(widths):
        for block_h in sorted({-(-height // cut) for cut in (1, 2, 3, 4, 6, 8, 14, 16, 28, 32)}):
            for count in sorted(vectors):
                block_n = count * deal.used
                slab = slab_bytes(problem, device.arch, block_h, block_w, block_n)
                if not copies or slab <= 0.75 * device.l2_bytes or block_h == 1:
                    yield block_h, block_w, block_n


def seconds(
    problem: Conv2dProblem, device: DeviceSpec, isa: str, blocks: tuple[int, int, int], *, frozen: bool
) -> float:
    """The predicted time of one call."""
    threads = min(launch_threads(problem), device.units)
    lanes, deal = LANES[isa], Dealing.of(problem, isa)
    cycle = 2 * lanes / multiply_adds(device, isa, "f32")
    height, width = (max(size, 1) for size in conv_out_size(problem))
    block_h, block_w = min(blocks[0], height), min(blocks[1], width)
    block_vectors = -(-deal.vectors // -(-deal.vectors // deal.block(blocks[2])))
    inputs = max(reduction_channels(problem), 1)
    (kernel_h, kernel_w), (stride_h, stride_w) = problem.kernel, conv_stride(problem)
    if problem.direction == "input_gradient":  # its phases share the kernel out between them
        kernel_h, kernel_w = max(1, kernel_h // problem.stride[0]), max(1, kernel_w // problem.stride[1])

    runs = -(-block_w // _TILE[isa])
    pixels = -(-block_w // runs)
    fixed_window = kernel_w in (3, 5, 7) and stride_w <= 2 and problem.dilation[1] == 1
    loads = (pixels - 1) * stride_w + kernel_w if fixed_window else pixels * kernel_w
    sums = pixels * kernel_w
    per_row = max(sums, loads + kernel_w) / 2
    if not _depthwise(problem):
        per_row += _PERMUTE[isa] * loads
    tile = inputs * kernel_h * per_row + _STEP
    rows_seen = block_h * stride_h + kernel_h - min(stride_h, kernel_h)
    # Rows that the windows share come out of L1 if those of all the block's channels fit it, else out of L2.
    line_row = block_w * stride_w * block_vectors
    seen = kernel_h if 64 * kernel_h * line_row > _L1 * device.l1_bytes else min(kernel_h, stride_h)
    tile += _FROM_L2 * seen * pixels * stride_w * min(deal.span / lanes, 1.0)

    y_strides = problem.out_strides
    at_once = y_strides[1] == 1 and deal.used == lanes and problem.activation in ("none", "relu")
    at_once = at_once and problem.residual_dtype is None and not problem.keep_preact
    finish = _STORE if at_once else (_FINISH if y_strides[1] == 1 else _TURNED)
    strips = block_h * runs
    task = strips * block_vectors * (tile + finish * pixels) + strips * _STRIP + _TASK
    if _copies(problem, isa):
        filled = rows_seen * (block_w * stride_w + kernel_w) * max(1.0, block_vectors * deal.span / lanes)
        task += (_COPY if input_strides(problem)[1] == 1 else _TURN) * filled

    blocks_n = -(-deal.vectors // block_vectors)
    tasks = problem.batch * -(-height // block_h) * -(-width // block_w) * blocks_n
    used = max(1, min(threads, tasks))
    packing = 0.0
    if not frozen:
        packing = _PACK * deal.vectors * inputs * kernel_h * kernel_w * cycle / used + _BARRIER
    reading = problem.bytes() / bandwidth(device, used, problem.bytes())
    if input_strides(problem)[1] == 1 and block_vectors < deal.vectors:
        passed = block_h * stride_h * block_w * stride_w * problem.groups * inputs * problem.dtype.itemsize
        lost = _NARROW + (_SCATTERED if passed > device.l2_bytes / 2 else 0.0)
        reading *= 1 + lost / block_vectors
    computing = -(-tasks // used) * task * cycle
    return overlapped(computing, reading, _HIDDEN) + packing + start(device, used)


def _depthwise(problem: Conv2dProblem) -> bool:
    """Lanes of x and y are the same."""
    return reduction_channels(problem) == output_channels(problem) == 1


def _copies(problem: Conv2dProblem, isa: str) -> bool:
    """Whether x is copied into a slab: `in_place` in grouped.cpp, but for odd padding."""
    channels = problem.groups * reduction_channels(problem)
    depthwise = _depthwise(problem)
    if input_strides(problem)[1] != 1 or channels < LANES[isa]:
        return True
    if problem.dtype != torch.float32:
        widens = problem.kernel[1] == 3 and conv_stride(problem)[1] <= 2 and problem.dilation[1] == 1
        return not (depthwise and widens and isa != "portable")
    return not depthwise and channels * 4 % 2048 == 0
