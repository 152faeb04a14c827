"""CpuConfig: the parameters of a CPU convolution kernel, and what makes one impossible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from tilewright.kernels.conv2d.cpu import grouped, planes, winograd
from tilewright.kernels.conv2d.cpu.geometry import (
    conv_out_size,
    conv_stride,
    input_strides,
    output_channels,
    reduction_channels,
)
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cpu import (
    COMPUTE,
    LANES,
    MAX_THREADS,
    MAX_WORKSPACE,
    PANEL_VECTORS,
    bad_fields,
    bad_problem,
    core,
    launch_threads,
    unusable,
)
from tilewright.kernels.interface import DeviceSpec

PACK = ("shared", "frozen")

MAX_ROWS = {"portable": 6, "avx2": 6, "avx512": 14}
"""The most output pixels of a register tile: ``kMaxRows`` in csrc/cpu/microkernel.h."""

_MAX_POSITIONS = 1024
_SUMS = (16 << 10) + 512
"""Bytes of a thread's sums, at most: ``kMaxChunk`` runs in direct.cpp."""


@dataclass(frozen=True, slots=True)
class CpuConfig:
    """How a convolution is cut up.

    ``direct``: a task is a block of ``block_h × block_w`` pixels of an output image and one of ``parts`` shares of the
    output channels, which it computes ``block_n`` at a time. ``pack`` says who lays the weight out: all threads
    together before they start (``shared``), or whoever froze it (``frozen``).

    ``grouped``: a task is a block of ``block_h × block_w`` pixels of an output image and ``block_n`` output channels,
    rounded to whole vectors; ``parts`` is 1, ``pack`` as for ``direct``. ``planes``: the same, rounded to whole groups.

    ``weight_gradient``: a task owns ``block_n`` output and ``block_c`` input channels of dw and passes over the pixels,
    ``block_h`` rows of output images at a time; ``parts`` is how many shares of the pixels are summed by themselves.
    It has no use for ``block_w``, nor the other algorithms for ``block_c``.

    ``winograd_fused`` and ``winograd_phased``: a block is ``block_w`` tiles of 4 × 4 pixels, counted over all images
    (``block_h`` is 1); the rest is as above.

    ``compute`` is what multiplies: ``f32`` (16-bit operands are widened), or ``bf16`` for the processor's dot
    products of bf16 pairs, with sums in fp32. The algorithm, ``isa``, ``compute``, ``block_h`` and ``block_w``
    decide the bits of the result (of dw, ``parts`` too; of ``grouped`` and ``planes`` no block does); ``block_n`` and
    threads do not.
    """

    algorithm: (
        str  # one of those that were compiled: direct, grouped, planes, winograd_fused, winograd_phased
    )
    isa: str  # one of kernels.cpu.ISA_LEVELS
    block_h: int
    block_w: int
    block_n: int
    parts: int = 1
    compute: str = "f32"  # one of COMPUTE
    pack: str = "shared"  # one of PACK
    block_c: int = 1

    def __str__(self) -> str:
        if self.algorithm == "weight_gradient":
            blocks = f"{self.block_h}x{self.block_n}x{self.block_c}"
            return f"{self.algorithm} {self.isa} {blocks} {self.compute} p{self.parts}"
        blocks = f"{self.block_h}x{self.block_w}x{self.block_n}"
        return f"{self.algorithm} {self.isa} {blocks} {self.compute} {self.pack} p{self.parts}"

    @property
    def form(self) -> tuple[str, str, str]:
        """What the packed weight depends on."""
        algorithm = "winograd" if self.algorithm in winograd.ALGORITHMS else self.algorithm
        return algorithm, self.isa, self.compute


@cache
def instances() -> frozenset[tuple[str, str, str]]:
    """(isa, algorithm, compute) of every kernel that was compiled."""
    module = core()
    if module is None:
        return frozenset()
    return frozenset(
        (row["isa"], row["algorithm"], row["compute"])
        for row in module.instances()
        if row["operation"] == "conv2d" and row["backend"] == "cpu"
    )


def rejection(config: Any, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
    """None if the config computes the problem on the device, else a sentence that says why not."""
    bad = bad_fields(config, CpuConfig, ("block_h", "block_w", "block_n", "block_c")) or bad_problem(problem)
    if bad is not None:
        return bad
    if config.compute not in COMPUTE or config.pack not in PACK:
        return f"knows no compute {config.compute!r:.40} with pack {config.pack!r:.40}"
    if not 1 <= config.parts <= MAX_THREADS:
        return f"parts is {config.parts}; expected 1 to {MAX_THREADS}"
    bad = unusable(config.isa, config.compute, problem.dtype, device)
    if bad is not None:
        return bad
    if (config.isa, config.algorithm, config.compute) not in instances():
        return f"{config.algorithm!r:.40} computing in {config.compute} was not compiled for {config.isa}"
    if config.pack == "frozen" and not problem.frozen_weight:
        return "the weight may change between calls, so a packed copy could go stale; pack that of a frozen module"
    if (config.algorithm == "weight_gradient") != (problem.direction == "weight_gradient"):
        return f"{config.algorithm} does not compute {problem.direction}"
    if config.algorithm in ("grouped", "planes"):
        if config.parts != 1:
            return f"parts is {config.parts}; {config.algorithm} takes 1"
        bad = grouped.refusal(problem) if config.algorithm == "grouped" else planes.refusal(problem)
        if bad is not None:
            return bad
    if config.algorithm in winograd.ALGORITHMS:
        if config.block_h != 1:
            return f"block_h is {config.block_h}; a block of winograd is 1 x block_w tiles"
        bad = winograd.refusal(problem)
        if bad is not None:
            return bad
    if config.algorithm == "direct" and math.prod(problem.kernel) > _MAX_POSITIONS:
        return (
            f"direct takes kernels of at most {_MAX_POSITIONS} positions; it has {math.prod(problem.kernel)}"
        )
    scratch = workspace_bytes(config, problem)
    if scratch > MAX_WORKSPACE:
        return f"needs {scratch >> 20} MiB of scratch memory; the limit is {MAX_WORKSPACE >> 20}"
    return None


def slab_bytes(problem: Conv2dProblem, block_h: int, block_w: int, compute: str) -> int:
    """An upper bound of the part of x that a block's windows cover: ``Layout`` in direct.cpp."""
    channels = reduction_channels(problem)
    units = -(-channels // (2 if compute == "bf16" else 1)) + 16
    inner = input_strides(problem)
    (height, width), (kernel_h, kernel_w) = conv_out_size(problem), problem.kernel
    # Phases of an input gradient have stride 1, and a part of the kernel no farther apart.
    stride_h, stride_w = conv_stride(problem)
    dilation_h, dilation_w = problem.dilation
    picks_columns = kernel_w == 1 and not (inner[3] == 1 and inner[1] != 1 and stride_w <= 4)
    rows = (
        (min(block_h, max(height, 1)) - 1) * (1 if kernel_h == 1 else stride_h)
        + (kernel_h - 1) * dilation_h
        + 1
    )
    columns = (
        (min(block_w, max(width, 1)) - 1) * (1 if picks_columns else stride_w)
        + (kernel_w - 1) * dilation_w
        + 1
    )
    return 4 * rows * columns * units


def workspace_bytes(config: CpuConfig, problem: Conv2dProblem) -> int:
    """An upper bound of the scratch memory of a launch."""
    if config.algorithm == "weight_gradient":
        from tilewright.kernels.conv2d.cpu import weight_gradient

        return weight_gradient.workspace_bytes(config, problem)
    blocks = config.block_h, config.block_w, config.block_n
    if config.algorithm == "grouped":
        return grouped.workspace_bytes(problem, config.isa, *blocks)
    if config.algorithm == "planes":
        return planes.workspace_bytes(problem, config.isa, *blocks)
    if config.algorithm in winograd.ALGORITHMS:
        return winograd.workspace_bytes(
            tiling(config, problem),
            phased=config.algorithm == "winograd_phased",
            block_n=config.block_n,
            channels=reduction_channels(problem),
            groups=problem.groups,
            threads=launch_threads(problem),
            frozen=config.pack == "frozen",
        )
    own = slab_bytes(problem, config.block_h, config.block_w, config.compute) + _SUMS
    packed = 0
    if config.pack == "shared":
        panel = PANEL_VECTORS * LANES[config.isa]
        outputs = -(-output_channels(problem) // panel) * panel
        packed = 4 * problem.groups * outputs * math.prod(problem.kernel) * reduction_channels(problem) + 512
    return launch_threads(problem) * own + packed + 8 * math.prod(problem.kernel) + 64


def tiling(config: CpuConfig, problem: Conv2dProblem) -> winograd.Tiling:
    """The tiles of a Winograd config."""
    return winograd.Tiling.of(
        config.isa,
        problem.batch,
        conv_out_size(problem),
        reduction_channels(problem),
        output_channels(problem),
        config.block_w,
    )
