"""How long a CudaConfig should take on a problem."""

from __future__ import annotations

import math

from tilewright.kernels.conv2d.cuda.config import CudaConfig
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cuda_cost import tensor_core_share
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.triton_cost import GPU_BANDWIDTH_SHARE, TILE_LATENCY, Product, product_seconds
from tilewright.kernels.triton_launch import cdiv
from tilewright.kernels.triton_tile import Tile

# Guesses until they are measured, the same as those for the Triton kernels (conv2d/triton/cost.py).
_GATHER_SHARE = 0.8
_SINGLES_SHARE = 0.3  # of that, where an image is gathered element by element
_STEP_LATENCY = 0.5e-6
_OPERATIONS_PER_TAP = 3  # of fp32 units: two conversions and a multiply-add


def expected_seconds(config: CudaConfig, problem: Conv2dProblem, device: DeviceSpec) -> float:
    """Positive and finite."""
    if config.algorithm.startswith("depthwise"):
        reading = problem.bytes() / (device.bandwidth * GPU_BANDWIDTH_SHARE)
        computing = _OPERATIONS_PER_TAP * problem.flops() / 2 / (device.peak_fp32 / 2)
        return max(reading, computing) + TILE_LATENCY + device.launch_seconds
    itemsize, groups = problem.dtype.itemsize, max(problem.groups, 1)
    pixels, channels = problem.batch * problem.m, problem.out_channels // groups
    image, weight = math.prod(problem.x_shape) * itemsize, math.prod(problem.weight_shape) * itemsize
    tile = Tile(
        *(config.block_m, config.block_n, config.block_k, config.num_warps, config.num_stages),
        problem.dtype,
        problem.precision,
    )
    # A pixel that one window has brought is there for those around it: a row costs memory its share of the image.
    row_bytes = min(problem.reduction * itemsize, image / groups / max(pixels, 1))
    product = Product(
        batch=groups,
        rows=pixels,
        columns=channels,
        steps=cdiv(problem.reduction, config.block_k),
        bytes=problem.bytes(),
        operand_bytes=image + weight,
        row_bytes=row_bytes,
        column_bytes=problem.reduction * itemsize,
    )
    share = tensor_core_share(config.algorithm, device) if tile.on_matrix_units else 1.0
    if config.algorithm != "implicit_gemm_tma":
        share *= _GATHER_SHARE
        if config.layout == "as_is" and problem.x_layout != "nhwc":
            share *= _SINGLES_SHARE
    seconds = product_seconds(
        product, tile, config.split_k, config.group_m, device, share=share, step_latency=_STEP_LATENCY
    )
    if config.layout == "nhwc":
        # A transposition: half of the bandwidth is what torch's copy draws.
        seconds += 4 * image / (device.bandwidth * GPU_BANDWIDTH_SHARE) + device.launch_seconds
    return seconds
