"""From (config, problem) to the kernels of a forward convolution, all arguments but the pointers known."""

from __future__ import annotations

import math

import torch

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import depthwise, descriptor, implicit_gemm
from tilewright.kernels.conv2d.triton.alignment import unit
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.geometry import (
    NO_STRIDES,
    box_of,
    dense_nhwc,
    described_strides,
    group_channels,
    image_extents,
    input_precision,
    is_wide,
    output_extents,
    padded,
    pixel_run,
    pixels_last,
    residual_hints,
    weight_extents,
)
from tilewright.kernels.conv2d.triton.plan import (
    Plan,
    contiguous_along,
    finish_image,
    options,
    outputs,
    unrolled,
    window,
)
from tilewright.kernels.conv2d.triton.tile import subtiles
from tilewright.kernels.triton_launch import Box, Kernel, cdiv


def plan_forward(config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype, decode: bool) -> Plan:
    split = config.split_k > 1
    c, n = group_channels(problem)
    m = problem.batch * problem.m
    strides = dense_nhwc(problem.y_shape) if split else problem.y_strides
    rows_last = pixels_last(strides)
    wide = is_wide(config, problem)
    residual_unit, residual_run = (1, 1) if split else residual_hints(problem, rows_last)
    aligned = problem.alignment % 16 == 0
    flat = config.algorithm == "few_channels"
    main = Kernel(
        fn=implicit_gemm.implicit_gemm,
        grid=(cdiv(m, config.block_m) * cdiv(n, config.block_n) * config.split_k * problem.groups, 1, 1),
        pointers=(
            problem.dtype,
            problem.dtype,
            *((torch.float32, None, None, None) if split else outputs(problem, out_dtype)),
        ),
        aligned=(aligned, aligned, True, True, aligned, aligned),
        scalars=(
            *(m, n, c),
            *problem.size,
            *problem.out_size,
            *problem.kernel,
            *window(problem),
            *problem.x_strides,
            *problem.weight_strides,
            m * problem.out_channels if split else 0,
            *strides,
            problem.bias_stride,
            *(problem.residual_strides or NO_STRIDES),
        ),
        constants=(
            *(config.block_m, config.block_n, config.block_k, config.group_m, config.split_k),
            m % config.block_m == 0,
            n % config.block_n == 0,
            (problem.reduction if flat else c) % config.block_k == 0,
            flat,
            problem.weight_strides[1] != 1,
            problem.kernel == (1, 1),
            padded(problem),
            pixels_last(problem.x_strides),
            contiguous_along(problem.weight_strides, 0, 1),
            1 if flat else unit(image_extents(c, problem.x_strides), problem.dtype, problem.alignment),
            1 if flat else unit(weight_extents(problem), problem.dtype, problem.alignment),
            unit(output_extents(n, strides), torch.float32 if split else out_dtype, 16),
            residual_unit,
            1 if split else pixel_run(problem.out_size, strides, out_dtype, 16),
            residual_run,
            rows_last,
            wide,
            subtiles(config, problem),
            "none" if split else problem.activation,
            input_precision(problem),
            decode,
        ),
        options=options(config),
    )
    if not split:
        return Plan(main, None, 0)
    finish = finish_image(config, problem, out_dtype, problem.y_shape, problem.y_strides, wide)
    return Plan(main, finish, config.split_k * m * problem.out_channels)


def plan_depthwise(
    config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype, decode: bool
) -> Plan:
    m, n = problem.batch * problem.m, problem.out_channels
    rows_last = pixels_last(problem.y_strides)
    residual_unit, residual_run = residual_hints(problem, rows_last)
    aligned = problem.alignment % 16 == 0
    main = Kernel(
        fn=depthwise.depthwise,
        grid=(cdiv(m, config.block_m) * cdiv(n, config.block_n), 1, 1),
        pointers=(problem.dtype, problem.dtype, *outputs(problem, out_dtype)),
        aligned=(aligned, aligned, True, True, aligned, aligned),
        scalars=(
            *(m, n),
            *problem.size,
            *problem.out_size,
            *problem.kernel,
            *window(problem),
            *problem.x_strides,
            *problem.weight_strides,
            *problem.y_strides,
            problem.bias_stride,
            *(problem.residual_strides or NO_STRIDES),
        ),
        constants=(
            *(config.block_m, config.block_n, config.group_m),
            *group_channels(problem),
            unrolled(problem.kernel[1], group_channels(problem)[0]),
            m % config.block_m == 0,
            n % config.block_n == 0,
            padded(problem),
            pixels_last(problem.x_strides),
            unit(image_extents(n, problem.x_strides), problem.dtype, problem.alignment),
            unit(output_extents(n, problem.y_strides), out_dtype, 16),
            residual_unit,
            pixel_run(problem.out_size, problem.y_strides, out_dtype, 16),
            residual_run,
            rows_last,
            is_wide(config, problem),
            problem.activation,
        ),
        options=options(config),
    )
    return Plan(main, None, 0)


def plan_descriptor(
    config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype, decode: bool
) -> Plan:
    """Forward, and the input's gradient, which reads dy as the former reads x."""
    split = config.split_k > 1
    forward = problem.direction == "forward"
    c, n = group_channels(problem) if forward else group_channels(problem)[::-1]
    shape, strides = problem.out_shape, problem.out_strides
    in_shape, in_strides = (
        (problem.x_shape, problem.x_strides) if forward else (problem.y_shape, problem.y_strides)
    )
    size = math.prod(shape)
    wide = is_wide(config, problem)
    box = box_of(config.block_m, shape)
    out_strides = dense_nhwc(shape) if split else strides
    rows_last = pixels_last(out_strides)
    residual_unit = 1 if split else residual_hints(problem, rows_last)[0]
    written = (torch.float32, None, None, None) if split else outputs(problem, out_dtype)
    aligned = problem.alignment % 16 == 0
    sizes = shape[0], *shape[2:]
    boxes = math.prod(cdiv(length, step) for length, step in zip(sizes, box, strict=True))
    stride_h, stride_w = problem.stride if forward else (1, 1)
    top, left = problem.padding[0], problem.padding[2]
    dilation_h, dilation_w = problem.dilation
    taps, per_group = math.prod(problem.kernel), group_channels(problem)[0]
    in_n, _, in_h, in_w = described_strides(in_shape, in_strides)
    w_block = (1, config.block_n, config.block_k) if forward else (1, config.block_k, config.block_n)
    main = Kernel(
        fn=descriptor.descriptor,
        grid=(boxes * cdiv(n, config.block_n) * config.split_k * problem.groups, 1, 1),
        pointers=(problem.dtype, problem.dtype, *written),
        aligned=(True, True, True, True, aligned, aligned),
        boxes=(
            Box(
                (
                    in_shape[0],
                    in_shape[2] // stride_h,
                    stride_h,
                    in_shape[3] // stride_w,
                    stride_w * in_shape[1],
                ),
                (in_n, stride_h * in_h, in_h, stride_w * in_w, 1),
                (box[0], box[1], 1, box[2], config.block_k),
            ),
            Box((taps, problem.out_channels, per_group), (per_group, taps * per_group, 1), w_block),
        ),
        scalars=(
            *(shape[0], n, c),
            *shape[2:],
            *problem.kernel,
            *(stride_h, stride_w),
            *((-top, -left, dilation_h, dilation_w) if forward else (top, left, -dilation_h, -dilation_w)),
            in_shape[1],
            size if split else 0,
            *out_strides,
            problem.bias_stride,
            *(problem.residual_strides or NO_STRIDES),
        ),
        constants=(
            *box,
            *(config.block_n, config.block_k, config.group_m, config.split_k),
            all(length % step == 0 for length, step in zip(sizes, box, strict=True)),
            n % config.block_n == 0,
            not forward,
            unit(output_extents(n, out_strides), torch.float32 if split else out_dtype, 16),
            residual_unit,
            rows_last,
            wide,
            subtiles(config, problem),
            "none" if split else problem.activation,
            input_precision(problem),
            decode,
        ),
        options=options(config),
    )
    if not split:
        return Plan(main, None, 0)
    return Plan(main, finish_image(config, problem, out_dtype, shape, strides, wide), config.split_k * size)
