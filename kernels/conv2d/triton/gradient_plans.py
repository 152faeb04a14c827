"""From (config, problem) to the kernels of the gradients, all arguments but the pointers known."""

from __future__ import annotations

import math

import torch

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import depthwise_gradients, input_gradient, weight_gradient
from tilewright.kernels.conv2d.triton.alignment import unit
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.geometry import (
    SUM_BLOCK,
    dense_nhwc,
    group_channels,
    image_extents,
    input_precision,
    is_wide,
    output_extents,
    padded,
    pixel_run,
    pixels_last,
    tap_steps,
    weight_extents,
)
from tilewright.kernels.conv2d.triton.plan import (
    Plan,
    contiguous_along,
    finish_image,
    options,
    unrolled,
    window,
)
from tilewright.kernels.conv2d.triton.tile import subtiles, taps_together
from tilewright.kernels.triton_launch import Kernel, cdiv


def plan_input_gradient(
    config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype, decode: bool
) -> Plan:
    split = config.split_k > 1
    n, k = group_channels(problem)
    (height, width), (stride_h, stride_w) = problem.size, problem.stride
    classes = cdiv(height, stride_h), cdiv(width, stride_w)
    m = problem.batch * math.prod(classes)
    strides = dense_nhwc(problem.x_shape) if split else problem.x_strides
    rows_last = pixels_last(strides)
    wide = is_wide(config, problem)
    aligned = problem.alignment % 16 == 0
    size = math.prod(problem.x_shape)
    main = Kernel(
        fn=input_gradient.input_gradient,
        grid=(
            cdiv(m, config.block_m) * cdiv(n, config.block_n) * config.split_k * problem.groups,
            stride_h * stride_w,
            1,
        ),
        pointers=(problem.dtype, problem.dtype, torch.float32 if split else out_dtype),
        aligned=(aligned, aligned, True),
        scalars=(
            *(m, n, k),
            *problem.size,
            *classes,
            *problem.out_size,
            *problem.kernel,
            *window(problem),
            *tap_steps(problem),
            *problem.y_strides,
            *problem.weight_strides,
            size if split else 0,
            *strides,
        ),
        constants=(
            *(config.block_m, config.block_n, config.block_k, config.group_m, config.split_k),
            m % config.block_m == 0 and height % stride_h == 0 and width % stride_w == 0,
            n % config.block_n == 0,
            k % config.block_k == 0,
            problem.kernel == (1, 1),
            problem.kernel != (1, 1) or any(problem.padding),
            pixels_last(problem.y_strides),
            contiguous_along(problem.weight_strides, 1, 0),
            unit(image_extents(k, problem.y_strides), problem.dtype, problem.alignment),
            unit(weight_extents(problem), problem.dtype, problem.alignment),
            unit(output_extents(n, strides), torch.float32 if split else out_dtype, 16),
            pixel_run(problem.size, strides, out_dtype, 16) if not split and problem.stride == (1, 1) else 1,
            rows_last,
            wide,
            subtiles(config, problem),
            input_precision(problem),
            decode,
        ),
        options=options(config),
    )
    if not split:
        return Plan(main, None, 0)
    finish = finish_image(config, problem, out_dtype, problem.x_shape, problem.x_strides, wide)
    return Plan(main, finish, config.split_k * size)


def plan_depthwise_input_gradient(
    config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype, decode: bool
) -> Plan:
    (height, width), (stride_h, stride_w) = problem.size, problem.stride
    classes = cdiv(height, stride_h), cdiv(width, stride_w)
    m, n = problem.batch * math.prod(classes), problem.in_channels
    unstrided = problem.stride == (1, 1)
    aligned = problem.alignment % 16 == 0
    main = Kernel(
        fn=depthwise_gradients.depthwise_input_gradient,
        grid=(cdiv(m, config.block_m) * cdiv(n, config.block_n), stride_h * stride_w, 1),
        pointers=(problem.dtype, problem.dtype, out_dtype),
        aligned=(aligned, aligned, True),
        scalars=(
            *(m, n),
            *problem.size,
            *classes,
            *problem.out_size,
            *problem.kernel,
            *window(problem),
            *tap_steps(problem),
            *problem.y_strides,
            *problem.weight_strides,
            *problem.x_strides,
        ),
        constants=(
            *(config.block_m, config.block_n, config.group_m),
            *group_channels(problem)[::-1],
            unrolled(problem.kernel[1], group_channels(problem)[1]) if unstrided else 0,
            m % config.block_m == 0 and height % stride_h == 0 and width % stride_w == 0,
            n % config.block_n == 0,
            problem.kernel != (1, 1) or any(problem.padding),
            pixels_last(problem.y_strides),
            unit(image_extents(n, problem.y_strides), problem.dtype, problem.alignment),
            unit(output_extents(n, problem.x_strides), out_dtype, 16),
            pixel_run(problem.size, problem.x_strides, out_dtype, 16) if unstrided else 1,
            pixels_last(problem.x_strides),
            is_wide(config, problem),
        ),
        options=options(config),
    )
    return Plan(main, None, 0)


def plan_weight_gradient(
    config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype, decode: bool
) -> Plan:
    split = config.split_k > 1
    n, m = group_channels(problem)
    pixels, size = problem.batch * problem.m, math.prod(problem.weight_shape)
    flat = config.algorithm == "few_channels"
    taps = math.prod(problem.kernel)
    columns = cdiv(taps * n, config.block_n) if flat else taps * cdiv(n, config.block_n)
    aligned = problem.alignment % 16 == 0
    main = Kernel(
        fn=weight_gradient.weight_gradient,
        grid=(cdiv(m, config.block_m) * columns * config.split_k * problem.groups, 1, 1),
        pointers=(problem.dtype, problem.dtype, torch.float32 if split else out_dtype),
        aligned=(aligned, aligned, True),
        scalars=(
            *(m, n, pixels),
            *problem.size,
            *problem.out_size,
            *problem.kernel,
            *window(problem),
            *problem.y_strides,
            *problem.x_strides,
            size if split else 0,
            *problem.weight_strides,
        ),
        constants=(
            *(config.block_m, config.block_n, config.block_k, config.group_m, config.split_k),
            m % config.block_m == 0,
            (taps * n if flat else n) % config.block_n == 0,
            pixels % config.block_k == 0,
            padded(problem),
            flat,
            pixels_last(problem.x_strides),
            unit(image_extents(m, problem.y_strides), problem.dtype, problem.alignment),
            1 if flat else unit(image_extents(n, problem.x_strides), problem.dtype, problem.alignment),
            is_wide(config, problem),
            input_precision(problem),
            decode,
        ),
        options=options(config),
    )
    return _with_sum(config, problem, out_dtype, main)


def plan_depthwise_weight_gradient(
    config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype, decode: bool
) -> Plan:
    split = config.split_k > 1
    c, k = group_channels(problem)
    size, channels = math.prod(problem.weight_shape), problem.out_channels
    together = taps_together(problem)
    aligned = problem.alignment % 16 == 0
    main = Kernel(
        fn=depthwise_gradients.depthwise_weight_gradient,
        grid=(
            cdiv(channels, config.block_n) * config.split_k,
            problem.kernel[0] * cdiv(problem.kernel[1], together) * c,
            1,
        ),
        pointers=(problem.dtype, problem.dtype, torch.float32 if split else out_dtype),
        aligned=(aligned, aligned, True),
        scalars=(
            *(channels, problem.batch * problem.m),
            *problem.size,
            *problem.out_size,
            *problem.kernel,
            *window(problem),
            *problem.y_strides,
            *problem.x_strides,
            size if split else 0,
            *problem.weight_strides,
        ),
        constants=(
            *(config.block_m, config.block_n, together, config.split_k),
            *(c, k),
            pixels_last(problem.y_strides),
            unit(image_extents(channels, problem.y_strides), problem.dtype, problem.alignment),
            # Only where both have the same channels is a vector of one a vector of the other.
            unit(image_extents(channels, problem.x_strides), problem.dtype, problem.alignment)
            if c == k == 1
            else 1,
            is_wide(config, problem),
        ),
        options=options(config),
    )
    return _with_sum(config, problem, out_dtype, main)


def _with_sum(config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype, main: Kernel) -> Plan:
    """The plan of a weight's gradient, whose parts are summed in their order in memory."""
    if config.split_k == 1:
        return Plan(main, None, 0)
    size = math.prod(problem.weight_shape)
    finish = Kernel(
        fn=weight_gradient.sum_weight_parts,
        grid=(cdiv(size, SUM_BLOCK), 1, 1),
        pointers=(torch.float32, out_dtype),
        aligned=(True, True),
        scalars=(size,),
        constants=(SUM_BLOCK, config.split_k, size % SUM_BLOCK == 0),
        options={"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True},
    )
    return Plan(main, finish, config.split_k * size)
