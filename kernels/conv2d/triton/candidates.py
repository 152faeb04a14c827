"""The configs worth trying for a problem, most promising first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import tile
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.cost import expected_seconds
from tilewright.kernels.conv2d.triton.geometry import channels_last_copy, group_channels
from tilewright.kernels.conv2d.triton.limits import DIRECTIONS, SMALL_GROUP, rejects
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.triton_launch import cdiv

# (block_m, block_n, block_k, num_warps, num_stages): pixels × channels. Stages are as many as shared memory holds
# without leaving a multiprocessor to fewer blocks than its registers would.
Table = tuple[tuple[int, int, int, int, int], ...]

_HOPPER_16BIT: Table = (
    (128, 256, 64, 8, 3),
    (256, 128, 64, 8, 3),
    (128, 128, 64, 8, 3),
    (128, 128, 64, 4, 4),
    (128, 64, 64, 4, 4),
    (64, 128, 64, 4, 4),
    (64, 64, 64, 4, 6),
    (256, 64, 64, 8, 4),
    (128, 128, 32, 8, 4),
    (128, 64, 32, 4, 5),
    (64, 64, 32, 4, 4),
    (128, 32, 32, 4, 5),
    (128, 16, 32, 4, 5),
    (32, 64, 64, 4, 5),
    (16, 64, 128, 4, 5),
    (16, 32, 64, 2, 5),
    (16, 16, 64, 1, 4),
    (16, 16, 32, 1, 4),
)
_AMPERE_16BIT: Table = (
    (128, 256, 32, 8, 4),
    (256, 128, 32, 8, 4),
    (128, 128, 32, 4, 5),
    (128, 128, 32, 8, 4),
    (128, 128, 32, 16, 4),
    (128, 128, 64, 8, 3),
    (64, 128, 32, 4, 5),
    (128, 64, 32, 4, 5),
    (128, 64, 64, 4, 4),
    (64, 64, 64, 4, 5),
    (64, 64, 32, 4, 5),
    (128, 32, 32, 4, 5),
    (128, 16, 32, 4, 5),
    (32, 64, 64, 4, 6),
    (16, 64, 128, 4, 5),
    (16, 32, 64, 2, 5),
    (16, 16, 64, 1, 4),
    (16, 16, 32, 1, 4),
)
_TF32: Table = (
    (128, 256, 32, 8, 3),
    (128, 128, 32, 8, 3),
    (64, 128, 32, 4, 4),
    (128, 64, 32, 4, 4),
    (64, 64, 32, 4, 4),
    (64, 32, 32, 4, 4),
    (128, 16, 32, 4, 4),
    (32, 64, 64, 4, 4),
    (16, 64, 64, 4, 5),
    (16, 32, 32, 2, 5),
    (16, 16, 16, 1, 4),
)
# IEEE fp32 has no matrix unit: each thread multiplies registers, so the tile is bounded by registers.
_FP32: Table = (
    (128, 128, 16, 8, 3),
    (128, 64, 16, 8, 3),
    (64, 128, 16, 8, 3),
    (64, 64, 16, 4, 4),
    (64, 64, 32, 8, 3),
    (32, 64, 32, 4, 4),
    (64, 32, 16, 4, 4),
    (32, 32, 32, 4, 4),
    (128, 16, 16, 4, 4),
    (16, 64, 32, 4, 4),
    (16, 32, 32, 4, 5),
    (16, 16, 16, 1, 4),
)
_DESCRIPTOR_16BIT: Table = (
    (256, 128, 64, 8, 3),
    (128, 256, 64, 8, 3),
    (128, 256, 64, 8, 4),
    (128, 128, 64, 8, 4),
    (128, 128, 64, 4, 4),
    (256, 64, 64, 4, 4),
    (128, 64, 64, 4, 5),
    (64, 128, 64, 4, 5),
    (64, 64, 64, 4, 6),
    (128, 64, 32, 4, 6),
)
_DESCRIPTOR_TF32: Table = (
    (256, 128, 32, 8, 3),
    (128, 128, 32, 8, 4),
    (128, 128, 32, 4, 4),
    (128, 64, 32, 4, 5),
    (64, 64, 32, 4, 6),
)
_FEW_CHANNELS_16BIT: Table = (
    (128, 64, 32, 8, 2),
    (64, 64, 32, 4, 2),
    (128, 32, 32, 8, 2),
    (64, 32, 32, 4, 2),
    (32, 32, 32, 4, 2),
    (64, 16, 32, 4, 2),
)
_FEW_CHANNELS_32BIT: Table = (
    (64, 64, 16, 4, 2),
    (64, 32, 16, 4, 2),
    (32, 32, 16, 4, 2),
    (64, 16, 16, 4, 2),
)
# (block_m, block_n, num_warps), channels contiguous and pixels contiguous
_DEPTHWISE_NHWC = ((32, 64, 4), (64, 64, 4), (16, 128, 4), (64, 32, 4), (16, 64, 2), (8, 64, 1), (128, 64, 8))
_DEPTHWISE_NCHW = ((256, 4, 4), (128, 8, 4), (512, 4, 8), (128, 4, 2), (64, 8, 4), (64, 4, 1), (32, 16, 4))
_DEPTHWISE_WEIGHT_NHWC = (
    (16, 64, 4),
    (32, 32, 4),
    (8, 64, 4),
    (8, 64, 8),
    (16, 32, 4),
    (8, 32, 2),
    (4, 32, 1),
)
_DEPTHWISE_WEIGHT_NCHW = ((256, 4, 4), (512, 2, 4), (256, 2, 4), (128, 4, 4), (128, 2, 2), (64, 2, 1))

_GROUP_M = 8
_MAX_CONFIGS = 24
_MIN_STEPS_PER_PART = 4  # fewer do not fill the pipeline that each part starts anew
_SPLITS = (2, 4, 8, 16, 32, 64, 128, 256)


def candidates(problem: Conv2dProblem, device: DeviceSpec) -> list[TritonConfig]:
    """Configs that `limits.rejects` lets pass, fastest first by `cost.expected_seconds`."""
    found = [
        config for config in every_candidate(problem, device) if rejects(config, problem, device) is None
    ]
    # Equally cheap ones keep the order of the tables above.
    return sorted(found, key=lambda config: expected_seconds(config, problem, device))[:_MAX_CONFIGS]


def every_candidate(problem: Conv2dProblem, device: DeviceSpec) -> list[TritonConfig]:
    """All configs that the tables have for the problem, each once; some do not fit (`limits.rejects`)."""
    found = list(_as_they_are(problem, device, "as_is"))
    copied = channels_last_copy(problem)
    if copied != problem:
        found += _as_they_are(copied, device, "nhwc")
    return list(dict.fromkeys(found))


def _as_they_are(problem: Conv2dProblem, device: DeviceSpec, layout: str) -> Iterator[TritonConfig]:
    for algorithm, directions in DIRECTIONS.items():
        if problem.direction not in directions:
            continue
        if algorithm == "depthwise":
            yield from _depthwise(problem, device, layout)
        else:
            yield from _products(algorithm, problem, device, layout)


def _products(
    algorithm: str, problem: Conv2dProblem, device: DeviceSpec, layout: str
) -> Iterator[TritonConfig]:
    c, k = group_channels(problem)
    if problem.direction == "weight_gradient":
        flat = algorithm == "few_channels"
        rows, columns, summed = k, c * (math.prod(problem.kernel) if flat else 1), problem.batch * problem.m
    else:
        forward = problem.direction == "forward"
        rows, columns, summed = tile.pixels(problem), k if forward else c, c if forward else k
    for block_m, block_n, block_k, num_warps, num_stages in _table(algorithm, problem, device):
        # A block more than twice as large as the product would compute mostly padding.
        if block_m > max(_covering(rows), 16) or block_n > max(_covering(columns), 16):
            continue
        if algorithm != "few_channels" and block_k > max(_covering(summed), 32):
            continue
        group_m = min(_GROUP_M, _covering(cdiv(rows, block_m)))
        whole = TritonConfig(algorithm, block_m, block_n, block_k, group_m, 1, num_warps, num_stages, layout)
        for split_k in _splits(whole, problem, device):
            yield replace(whole, split_k=split_k)


def _table(algorithm: str, problem: Conv2dProblem, device: DeviceSpec) -> Table:
    halves = problem.dtype in (torch.float16, torch.bfloat16)
    if algorithm == "few_channels" and problem.direction == "forward":
        return _FEW_CHANNELS_16BIT if halves else _FEW_CHANNELS_32BIT
    if algorithm == "descriptor":
        return _DESCRIPTOR_16BIT if halves else _DESCRIPTOR_TF32
    if halves:
        return _HOPPER_16BIT if 90 <= device.capability < 120 else _AMPERE_16BIT
    return _TF32 if problem.precision == "tf32" else _FP32


def _depthwise(problem: Conv2dProblem, device: DeviceSpec, layout: str) -> Iterator[TritonConfig]:
    summed = group_channels(problem)[1 if problem.direction == "input_gradient" else 0]
    if problem.groups == 1 or summed > SMALL_GROUP:
        return
    strides = problem.x_strides if problem.direction == "forward" else problem.y_strides
    channels_last = strides[1] == 1
    if problem.direction == "weight_gradient":
        table = _DEPTHWISE_WEIGHT_NHWC if channels_last else _DEPTHWISE_WEIGHT_NCHW
        channels, rows = problem.out_channels, problem.batch * problem.m
    else:
        table = _DEPTHWISE_NHWC if channels_last else _DEPTHWISE_NCHW
        channels, rows = problem.out_shape[1], tile.pixels(problem)
    for block_m, block_n, num_warps in table:
        block_m, block_n = min(block_m, _covering(rows)), min(block_n, _covering(channels))
        whole = TritonConfig("depthwise", block_m, block_n, 1, 1, 1, num_warps, 1, layout)
        if problem.direction != "weight_gradient":
            yield whole
            continue
        for split_k in _splits(whole, problem, device):
            yield replace(whole, split_k=split_k)


def _splits(config: TritonConfig, problem: Conv2dProblem, device: DeviceSpec) -> Iterator[int]:
    """1, and the powers of two that give every multiprocessor one tile to four."""
    yield 1
    tiles = tile.programs(config, problem)
    if config.algorithm == "depthwise":
        tiles *= problem.kernel[0]
    most = tile.steps(config, problem) // _MIN_STEPS_PER_PART
    for split_k in _SPLITS:
        enough = device.units // 2 < tiles * split_k <= 4 * device.units
        if split_k <= most and enough and tiles < device.units:
            yield split_k


def _covering(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(size - 1, 0).bit_length()
