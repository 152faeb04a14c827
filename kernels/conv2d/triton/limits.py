"""What a TritonConfig can run: the single statement of it, `rejects`, and the figures that it rests on.

The figures were read off kernels that Triton 3.9 compiled for sm_80, sm_90 and sm_100; tests/triton/test_conv2d_aot.py
compiles a sample again and holds them to it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import tile
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.geometry import (
    channels_last_copy,
    described_extents,
    group_channels,
)
from tilewright.kernels.dtypes import DTYPE_NAMES, KERNEL_DTYPES
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.triton_runtime import interpreting
from tilewright.kernels.triton_tile import OLDEST_CAPABILITY, kib

DIRECTIONS: dict[str, tuple[str, ...]] = {
    "implicit_gemm": ("forward",),
    "few_channels": ("forward", "weight_gradient"),
    "descriptor": ("forward", "input_gradient"),
    "depthwise": ("forward", "input_gradient", "weight_gradient"),
    "input_gradient": ("input_gradient",),
    "weight_gradient": ("weight_gradient",),
}
"""What each algorithm computes."""

_PRODUCT: dict[str, tuple[int, ...]] = {
    "block_m": (16, 32, 64, 128, 256),
    "block_n": (16, 32, 64, 128, 256),
    "block_k": (16, 32, 64, 128),
    "group_m": (1, 2, 4, 8, 16),
    "num_warps": (1, 2, 4, 8, 16),
    "num_stages": (2, 3, 4, 5, 6),  # 1 gives no pipeline, and all of a step's operands in registers
}
_DEPTHWISE: dict[str, tuple[int, ...]] = {
    "block_m": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "block_n": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "block_k": (1,),
    "group_m": (1, 2, 4, 8, 16),
    "num_warps": (1, 2, 4, 8),
    "num_stages": (1,),
}
_MAX_SPLIT = 256
_MAX_SIZE = 2**31 - 1024  # sizes and indices are 32-bit, and a block may reach past the end
_MAX_GRID = 2**31 - 1
_MAX_CLASSES = 65535  # the second dimension of a grid: stride_h · stride_w, or weights per channel
FEW_CHANNELS = 16
"""Input channels of a group up to which numbering the terms through saves steps."""
SMALL_GROUP = 8
"""Input channels of a group up to which multiplying without matrix units pays."""


def rejects(config: Any, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
    """None if `config` computes `problem` on `device`, else why not. Holds against configs from a file."""
    why = _malformed(config) or _unfit_problem(problem) or _unfit_algorithm(config, problem, device)
    if why is not None:
        return why
    if config.layout == "nhwc":
        copied = channels_last_copy(problem)
        if copied == problem:
            return "layout is 'nhwc', but the operands are channels_last as they are"
        return rejects(replace(config, layout="as_is"), copied, device)
    return _unfit_device(config, problem, device) or _wasteful(config, problem)


def shared_bytes(config: TritonConfig, problem: Conv2dProblem, capability: int) -> int:
    """The most shared memory per block that the compiled kernel asks for."""
    if config.layout == "nhwc":
        problem = channels_last_copy(problem)
    return tile.shared_bytes(config, problem, capability)


def _malformed(config: Any) -> str | None:
    if not isinstance(config, TritonConfig):
        return f"config is a {type(config).__name__}, not a TritonConfig"
    if type(config.algorithm) is not str or config.algorithm not in DIRECTIONS:
        return f"algorithm is {config.algorithm!r}; Triton has {', '.join(DIRECTIONS)}"
    for name, allowed in (_DEPTHWISE if config.algorithm == "depthwise" else _PRODUCT).items():
        value = getattr(config, name)
        if type(value) is not int or value not in allowed:
            return f"{name} is {value!r}; expected one of {', '.join(map(str, allowed))}"
    if type(config.split_k) is not int or not 1 <= config.split_k <= _MAX_SPLIT:
        return f"split_k is {config.split_k!r}; expected 1 to {_MAX_SPLIT}"
    if type(config.layout) is not str or config.layout not in ("as_is", "nhwc"):
        return f"layout is {config.layout!r}; expected 'as_is' or 'nhwc'"
    return None


def _unfit_problem(problem: Conv2dProblem) -> str | None:
    for role, dtype in (
        ("operand", problem.dtype),
        ("bias", problem.bias_dtype),
        ("residual", problem.residual_dtype),
    ):
        if dtype is not None and dtype not in KERNEL_DTYPES:
            return f"{role} dtype is {DTYPE_NAMES.get(dtype, dtype)}; the kernel takes f32, bf16 and f16"
    if problem.activation not in ACTIVATIONS:
        return f"activation is {problem.activation!r}; the kernel has {', '.join(ACTIVATIONS)}"
    pixels = problem.batch * max(problem.m, problem.size[0] * problem.size[1])
    reach = max(
        size + sum(problem.padding) + problem.stride[dim] + problem.kernel[dim] * problem.dilation[dim]
        for dim in range(2)
        for size in (problem.size[dim], problem.out_size[dim])
    )
    largest = max(pixels, problem.in_channels, problem.out_channels, problem.reduction, reach)
    if largest > _MAX_SIZE:
        return f"a size of {largest} does not fit the kernel's 32-bit indices (at most {_MAX_SIZE})"
    if problem.direction == "input_gradient" and problem.stride[0] * problem.stride[1] > _MAX_CLASSES:
        return f"a stride of {problem.stride[0]} x {problem.stride[1]} gives more than {_MAX_CLASSES} classes of pixels"
    return None


def _unfit_algorithm(config: TritonConfig, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
    directions = DIRECTIONS[config.algorithm]
    if problem.direction not in directions:
        return f"{config.algorithm} computes {' and '.join(directions)} only"
    c, k = group_channels(problem)
    if config.algorithm == "few_channels" and c > FEW_CHANNELS:
        return f"few_channels is for at most {FEW_CHANNELS} input channels per group, not {c}"
    if config.algorithm == "depthwise":
        summed = k if problem.direction == "input_gradient" else c
        if problem.groups == 1 or summed > SMALL_GROUP:
            return (
                f"depthwise is for groups of at most {SMALL_GROUP} channels, not {problem.groups} of {summed}"
            )
        if config.split_k > 1 and problem.direction != "weight_gradient":
            return f"split_k is {config.split_k}; depthwise splits sums over pixels only, for the weight's gradient"
        rows = problem.kernel[0] * problem.kernel[1] * c
        if problem.direction == "weight_gradient" and rows > _MAX_CLASSES:
            return f"{rows} weights per channel are more than the {_MAX_CLASSES} of a grid's second dimension"
    if config.algorithm == "descriptor" and config.layout == "as_is":
        return _indescribable(config, problem, device)
    return None


def _indescribable(config: TritonConfig, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
    """Why the tensor memory accelerator cannot fetch the operands; None if it can."""
    if device.kind == "cuda" and device.capability < 90:
        return f"descriptor needs compute capability 9.0 (sm_90), the device is {device.arch}"
    forward = problem.direction == "forward"
    stride = problem.stride
    if not forward and stride != (1, 1):
        return "descriptor computes gradients of convolutions without a stride only"
    if device.kind == "cuda" and problem.dtype == torch.float32 and problem.precision == "ieee":
        return "descriptor is for matrix units; fp32 with precision 'ieee' has none"
    if device.kind == "cuda" and problem.dtype == torch.float32 and not forward:
        return "descriptor has the weight in an order that matrix units do not read with tf32"
    if problem.size[0] % stride[0] or problem.size[1] % stride[1]:
        return f"descriptor needs an image that the stride divides, not {problem.size} by {stride}"
    extents = described_extents(problem)
    if extents is None:
        return "descriptor needs channels_last operands"
    vector = 16 // problem.dtype.itemsize
    if problem.alignment % 16 or any(extent % vector or not extent for extent in extents):
        return "descriptor needs addresses and strides that are multiples of 16 bytes, and not 0"
    summed = group_channels(problem)[0 if forward else 1]
    if summed % config.block_k and (problem.groups > 1 or stride[1] > 1):
        return (
            f"block_k of {config.block_k} does not divide {summed} channels: a box would reach into the next "
            f"{'group' if problem.groups > 1 else 'pixel'}"
        )
    return None


def _unfit_device(config: TritonConfig, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
    programs = tile.programs(config, problem)
    if programs > _MAX_GRID:
        return f"needs {programs} blocks, a grid has at most {_MAX_GRID}"
    if device.kind == "cpu":
        if not interpreting():
            return "Triton compiles for GPUs only; TRITON_INTERPRET=1 interprets its kernels on the CPU"
        return None
    if device.capability < OLDEST_CAPABILITY:
        return f"needs compute capability 8.0 (sm_80), the device is {device.arch}"
    shared = tile.shared_bytes(config, problem, device.capability)
    if shared > device.shared_bytes:
        return f"needs {kib(shared)} KB of shared memory, the device has {kib(device.shared_bytes)} KB"
    return tile.too_many_registers(config, problem, device.capability)


def _wasteful(config: TritonConfig, problem: Conv2dProblem) -> str | None:
    steps = tile.steps(config, problem)
    if config.split_k > max(steps, 1):
        return f"split_k is {config.split_k}, the sum has only {steps} steps of {config.block_k}"
    return None
