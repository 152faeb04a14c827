"""How long a convolution, or one of its gradients, should take."""

from __future__ import annotations

import math
from typing import Any

import torch

from tilewright.kernels.conv2d.cpu import cost as cpu_cost
from tilewright.kernels.conv2d.cuda import cost as cuda_cost
from tilewright.kernels.conv2d.problem import Conv2dProblem, output_strides
from tilewright.kernels.conv2d.triton import cost as triton_cost
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.kernels.interface import DeviceSpec
from tilewright.tuner.costs.shared import (
    CPU_CACHE_SPEEDUP,
    GPU_BANDWIDTH_SHARE,
    MKL_SHARE,
    TILE_LATENCY,
    TORCH_OP_SECONDS,
    VENDOR_BANDWIDTH_SHARE,
    best_of_gpu_tiles,
    ceil,
    cpu_bandwidth,
    cpu_threads,
    gpu_peak,
    is_amd,
    mkl_peak,
)


def cpu(config: Any, problem: Conv2dProblem, device: DeviceSpec) -> float:
    return cpu_cost.expected_seconds(config, problem, device)


def triton(config: Any, problem: Conv2dProblem, device: DeviceSpec) -> float:
    return triton_cost.expected_seconds(config, problem, device)


def cuda(config: Any, problem: Conv2dProblem, device: DeviceSpec) -> float:
    return cuda_cost.expected_seconds(config, problem, device)


# oneDNN on CPUs, measured with torch 2.13 on AMD Zen 5 (AVX-512 with BF16), one thread. Convolutions in channels_last
# on a prepacked weight reach 0.84 to 0.97 of the peak where images are not tiny.
_SHARE = {"forward": 0.90, "input_gradient": 0.83, "weight_gradient": 0.75}
_DEPTHWISE_SHARE = 0.45  # of the fp32 peak, whatever the dtype; it is bound by reading
_NARROW = 1.08  # times that share where operands have 16 bits
_FULL_GROUP = 36  # channels c of a group keep (c / 36)^0.7 of it
_LANES = 16  # output channels are computed so many at a time
_RAGGED_NCHW = {4: 0.45, 2: 0.75}  # by itemsize: NCHW whose channels those do not divide takes slower kernels
_FEW_CHANNELS = (
    0.01  # for each channel of an input of less than 16, such as an RGB image, where its gradient is wanted
)
_OTHER_SHARE = 0.1  # float64 and integers, of the fp32 peak
_HIDDEN = 0.6  # of the shorter of computing and reading
_WEIGHT_REORDER = (
    3.5  # times the weight's bytes over the bandwidth, on every call that is not given it prepacked
)
_IMAGE_REORDER = {4: 1.0, 2: 2.5}  # the same for an image in NCHW, by itemsize
_PREPACKED_IMAGE_REORDER = 2.5  # where the weight is in oneDNN's blocks, and the image must be too
_COPY = 3.0  # the same for a copy into the other memory format by torch
_OP_SECONDS = 20e-6
_REORDER_SECONDS = 8e-6

# torch leaves small images of a single batch, and with one thread 1×1 windows, to MKL's products.
_SMALL_IMAGE = 20480  # elements
_MANY_IMAGES = 16


def cpu_vendor(config: Any, problem: Conv2dProblem, device: DeviceSpec) -> float:
    algorithm, layout = str(getattr(config, "algorithm", "")), getattr(config, "layout", "as_is")
    threads, itemsize = cpu_threads(problem, device), problem.dtype.itemsize
    bandwidth = cpu_bandwidth(problem, device)
    cached = CPU_CACHE_SPEEDUP if problem.bytes() < device.llc_bytes / 2 else VENDOR_BANDWIDTH_SHARE
    x, weight, y = (
        itemsize * math.prod(shape) for shape in (problem.x_shape, problem.weight_shape, problem.y_shape)
    )
    given = {"forward": x, "input_gradient": y, "weight_gradient": x + y}[problem.direction]
    computed = {"forward": y, "input_gradient": x, "weight_gradient": weight}[problem.direction]
    last = layout == "nhwc" if layout != "as_is" else _channels_last(problem)
    by_mkl = algorithm == "convolution" and _by_mkl(problem, threads)
    if by_mkl:
        rate = mkl_peak(problem, device) * MKL_SHARE
    else:
        rate = _onednn_rate(problem, device, last or algorithm == "onednn_prepacked")
    computing = problem.flops() / (rate * threads / device.units)
    reading = problem.bytes() / (bandwidth * cached)
    seconds = max(computing, reading) + (1 - _HIDDEN) * min(computing, reading)
    if not by_mkl:
        if algorithm != "onednn_prepacked":
            seconds += _WEIGHT_REORDER * weight / bandwidth + _REORDER_SECONDS
        if not last and algorithm == "onednn_prepacked":
            seconds += _PREPACKED_IMAGE_REORDER * x / bandwidth
        elif not last:
            seconds += _IMAGE_REORDER.get(itemsize, 1.0) * (x + y) / bandwidth
    if layout != "as_is":
        seconds += (_COPY * (given + (0 if problem.frozen_weight else weight))) / bandwidth + TORCH_OP_SECONDS
    # A result in another format than was asked for is copied once more.
    if _copied_back(algorithm, layout, problem):
        seconds += _COPY * computed / bandwidth + TORCH_OP_SECONDS
    passes = _elementwise_passes(algorithm, problem)
    seconds += passes * (2 * y / (bandwidth * cached) + TORCH_OP_SECONDS)
    return seconds + _OP_SECONDS + (device.launch_seconds if threads > 1 else 0.0)


def _channels_last(problem: Conv2dProblem) -> bool:
    """Whether torch computes in channels_last: one operand in that format is enough."""
    layouts = {"x": problem.x_layout, "weight": problem.weight_layout, "y": problem.y_layout}
    if problem.direction == "weight_gradient":
        del layouts["weight"]
    return "nhwc" in layouts.values()


def _copied_back(algorithm: str, layout: str, problem: Conv2dProblem) -> bool:
    """Whether the result comes in another format than the problem wants; prepacked, oneDNN gives channels_last."""
    if layout == "as_is" and algorithm != "onednn_prepacked":
        return False
    shape = problem.out_shape
    if shape[1] == 1 or shape[2] * shape[3] == 1:
        return False  # the formats are the same
    wanted = problem.out_strides == output_strides(shape, True)
    return wanted != (layout == "nhwc" or algorithm == "onednn_prepacked")


def _by_mkl(problem: Conv2dProblem, threads: int) -> bool:
    if problem.dtype != torch.float32 or problem.groups > 1:
        return False
    if problem.stride != (1, 1) or problem.dilation != (1, 1):
        return False
    if problem.kernel == (1, 1) and threads == 1:
        return problem.batch < _MANY_IMAGES
    small = math.prod(problem.x_shape) <= _SMALL_IMAGE and min(problem.kernel) <= 3
    return problem.batch == 1 and small


def _onednn_rate(problem: Conv2dProblem, device: DeviceSpec, channels_last: bool) -> float:
    """FLOP/s of the whole device."""
    groups = max(problem.groups, 1)
    inputs, outputs = problem.in_channels // groups, problem.out_channels // groups
    if problem.dtype not in KERNEL_DTYPES:
        return device.peak_fp32 * _OTHER_SHARE
    if problem.depthwise:
        return device.peak_fp32 * _DEPTHWISE_SHARE
    share = _SHARE[problem.direction] * (_NARROW if problem.dtype.itemsize == 2 else 1.0)
    if not is_amd(device):
        share = min(0.95, 1.1 * share)  # assumed, so that ours must earn its place
    if groups > 1:
        share *= min(1.0, (min(inputs, outputs) / _FULL_GROUP) ** 0.7)
    else:
        share *= outputs / max(ceil(outputs, _LANES) * _LANES, 1)
        if not channels_last and (inputs % _LANES or outputs % _LANES):
            share *= _RAGGED_NCHW.get(problem.dtype.itemsize, 1.0)
        if problem.direction == "input_gradient" and inputs < _LANES:
            share = _FEW_CHANNELS * inputs
    return device.peak(problem.dtype) * max(share, 1e-3)


def _elementwise_passes(algorithm: str, problem: Conv2dProblem) -> int:
    """How many operators follow the convolution because it does not fuse them."""
    bias = problem.bias_dtype is not None and problem.bias_dtype != problem.dtype
    residual = problem.residual_dtype is not None
    active = problem.activation != "none"
    if algorithm.startswith("onednn"):
        # Relu is left to torch, and so is an activation after a residual.
        active = active and (residual or problem.keep_preact or problem.activation == "relu")
        residual = residual and problem.residual_dtype != problem.dtype
    return bias + residual + active + problem.keep_preact


# cuDNN in channels_last with its algorithm searched is taken for as good as cuBLAS on the product that a convolution
# amounts to; NCHW is reordered on the way, and few channels leave the matrix units waiting.
_CUDNN_SHARE = 0.9  # of cuBLAS
_FULL_CHANNELS = 8  # halves in the 16 bytes that a matrix unit's operands are loaded by
_DEPTHWISE_BANDWIDTH_SHARE = 0.5


def gpu_vendor(config: Any, problem: Conv2dProblem, device: DeviceSpec) -> float:
    layout, itemsize = getattr(config, "layout", "as_is"), problem.dtype.itemsize
    bandwidth = device.bandwidth * GPU_BANDWIDTH_SHARE
    x, weight, y = (
        itemsize * math.prod(shape) for shape in (problem.x_shape, problem.weight_shape, problem.y_shape)
    )
    pixels, groups = problem.batch * problem.m, max(problem.groups, 1)
    inputs, outputs = problem.in_channels // groups, problem.out_channels // groups
    window = math.prod(problem.kernel)
    rows, columns, depth = {
        "forward": (pixels, outputs, inputs * window),
        "input_gradient": (problem.batch * math.prod(problem.size), inputs, outputs * window),
        "weight_gradient": (outputs, inputs * window, pixels),
    }[problem.direction]
    rate = gpu_peak(problem, device) * _CUDNN_SHARE
    if min(inputs, outputs) % _FULL_CHANNELS:
        rate /= 2
    computing = best_of_gpu_tiles(rows, columns, depth, groups, rate, device.units, 512)
    if problem.depthwise:
        computing = problem.flops() / (device.peak_fp32 / 4)
        bandwidth *= _DEPTHWISE_BANDWIDTH_SHARE
    seconds = max(computing, problem.bytes() / bandwidth) + TILE_LATENCY + device.launch_seconds
    copied = layout != "as_is"
    last = layout == "nhwc" if copied else _channels_last(problem)
    if copied or not last:
        # Copied by torch, or by cuDNN itself, there and back.
        seconds += 2 * (x + y + weight) / bandwidth + (3 if copied else 1) * device.launch_seconds
    passes = _elementwise_passes("", problem)
    return seconds + passes * (2 * y / bandwidth + device.launch_seconds)
