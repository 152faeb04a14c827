"""Which configs are worth trying: blocks that fit the caches and divide evenly over the threads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch

from tilewright.kernels.conv2d.cpu import grouped, planes, weight_gradient, winograd_configs
from tilewright.kernels.conv2d.cpu.config import MAX_ROWS, CpuConfig, instances, rejection, slab_bytes
from tilewright.kernels.conv2d.cpu.cost import expected_seconds
from tilewright.kernels.conv2d.cpu.geometry import conv_out_size, output_channels
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.winograd import admitted, transforms
from tilewright.kernels.cpu import LANES, PANEL_VECTORS, features, launch_threads
from tilewright.kernels.interface import DeviceSpec

_WORTH = 1.5
"""Configs that should take longer than the best by this factor are not worth measuring."""

_GROUPS = (1, 2, 4, 8, 16)  # panels
_MOST_HEIGHTS = 8


def configs(problem: Conv2dProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    """Every config worth trying that runs, best guess first; and one that only the user's precision keeps from it."""
    ranked = sorted(
        (expected_seconds(config, problem, device), str(config), config)
        for config in set(_candidates(problem, device))
        if rejection(config, problem, device) is None
    )
    for seconds, _, config in ranked:
        if seconds <= _WORTH * ranked[0][0]:
            yield config
    # So that it can be read why it was not taken.
    if ranked and transforms(problem) and not admitted(problem):
        yield from islice(winograd_configs.configs(problem, device), 1)


def _candidates(problem: Conv2dProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    if problem.direction == "weight_gradient":
        yield from weight_gradient.configs(problem, device)
    else:
        yield from _direct(problem, device)
        yield from _grouped(problem, device)
        if admitted(problem):
            yield from winograd_configs.configs(problem, device)


def computes(problem: Conv2dProblem, device: DeviceSpec, algorithm: str) -> list[str]:
    """What may do an algorithm's multiplying here; a machine with bf16 dot products has no use for widening."""
    here = [compute for isa, name, compute in instances() if isa == device.arch and name == algorithm]
    if problem.dtype == torch.bfloat16 and "bf16" in here and "avx512bf16" in features():
        return ["bf16"]
    return [compute for compute in here if compute == "f32"]


def _direct(problem: Conv2dProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    threads = launch_threads(problem)
    panel = PANEL_VECTORS * LANES.get(device.arch, 4)
    panels = max(1, _ceil(output_channels(problem), panel))
    height, width = (max(size, 1) for size in conv_out_size(problem))
    run = MAX_ROWS.get(device.arch, 6) // 2
    pack = "frozen" if problem.frozen_weight else "shared"
    for compute in computes(problem, device, "direct"):
        for block_w in sorted({width, *_widths(problem, width, run, device, compute)}):
            heights = [
                size
                for size in sorted({_ceil(height, cut) for cut in range(1, height + 1)})
                if slab_bytes(problem, size, block_w, compute) <= 0.75 * device.l2_bytes
            ]
            for block_h in heights[-_MOST_HEIGHTS:] or [1]:
                for parts in sorted({1, *(cut for cut in range(2, threads + 1) if cut <= panels)}):
                    for group in _GROUPS:
                        if group == 1 or group <= _ceil(panels, parts):
                            yield CpuConfig(
                                "direct", device.arch, block_h, block_w, group * panel, parts, compute, pack
                            )


def _grouped(problem: Conv2dProblem, device: DeviceSpec) -> Iterator[CpuConfig]:
    pack = "frozen" if problem.frozen_weight else "shared"
    for algorithm, module in (("grouped", grouped), ("planes", planes)):
        for block_h, block_w, block_n in module.candidates(problem, device):
            yield CpuConfig(algorithm, device.arch, block_h, block_w, block_n, pack=pack)


def _widths(problem: Conv2dProblem, width: int, run: int, device: DeviceSpec, compute: str) -> Iterator[int]:
    """Narrower blocks, of whole runs, where one row of the image overflows half of L2."""
    cut = 2
    while slab_bytes(problem, 1, _ceil(width, cut - 1), compute) > device.l2_bytes / 2 and cut <= 64:
        yield min(width, _ceil(_ceil(width, cut), run) * run)
        cut *= 2


def _ceil(size: int, step: int) -> int:
    return -(-size // step)
