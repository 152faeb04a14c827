"""What the kernels are told of a problem's tensors: layouts, masks, and what is known of their strides."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import TypeAlias

import torch

from tilewright.kernels.conv2d.problem import Conv2dProblem, output_strides
from tilewright.kernels.conv2d.triton.alignment import run, unit
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.triton_launch import INT32_LIMIT, cdiv

Strides: TypeAlias = tuple[int, ...]

NO_STRIDES = (0, 0, 0, 0)
_LONGEST_BOX = 256  # elements along a dimension that one load of the tensor memory accelerator takes
SUM_BLOCK = 1024  # elements of the output that one program of a summing kernel owns


def group_channels(problem: Conv2dProblem) -> tuple[int, int]:
    """Input and output channels of a group."""
    return problem.in_channels // problem.groups, problem.out_channels // problem.groups


def dense_nhwc(shape: tuple[int, ...]) -> Strides:
    """How a workspace of sums lies."""
    return output_strides(shape, True)


def tap_steps(problem: Conv2dProblem) -> tuple[int, int]:
    """Every how many taps of the window, down and across, meet the same class of pixels of x."""
    down, across = (
        stride // gcd(stride, dilation)
        for stride, dilation in zip(problem.stride, problem.dilation, strict=True)
    )
    return down, across


def channels_last_copy(problem: Conv2dProblem) -> Conv2dProblem:
    """The problem of the same operands after those that are not channels_last were copied to it."""
    x, w, y = (
        output_strides(shape, True) for shape in (problem.x_shape, problem.weight_shape, problem.y_shape)
    )
    if problem.direction == "forward":
        return replace(problem, x_strides=x, weight_strides=w)
    if problem.direction == "input_gradient":
        return replace(problem, y_strides=y, weight_strides=w)
    return replace(problem, y_strides=y, x_strides=x)


def described_strides(shape: tuple[int, ...], strides: Strides) -> Strides:
    """The strides, with those of dimensions of size 1, which mean nothing, replaced by a dense image's."""
    _, channels, height, width = shape
    step_n, step_c, step_h, step_w = strides
    step_w = step_w if width > 1 else channels
    step_h = step_h if height > 1 else width * step_w
    return step_n if shape[0] > 1 else height * step_h, step_c, step_h, step_w


def described_extents(problem: Conv2dProblem) -> tuple[int, ...] | None:
    """What must be a multiple of 16 bytes for operands to be fetched as boxes; None if they are not channels_last."""
    forward = problem.direction == "forward"
    shape, strides = (problem.x_shape, problem.x_strides) if forward else (problem.y_shape, problem.y_strides)
    if strides[1] != 1 or problem.weight_strides != output_strides(problem.weight_shape, True):
        return None
    step_n, _, step_h, step_w = described_strides(shape, strides)
    return shape[1], step_n, step_h, step_w, group_channels(problem)[0]


def pixels_last(strides: Strides) -> bool:
    """Whether a tensor is contiguous along its pixels, and not along its channels."""
    return strides[1] != 1 and strides[3] == 1


def image_extents(channels: int, strides: Strides) -> tuple[int, ...]:
    """What must be a multiple of the vector for an image of `channels` in a group to be read in vectors."""
    step_n, step_c, step_h, step_w = strides
    # Where pixels are contiguous, a window moves over them one by one: no vector of them is aligned.
    return (channels, step_n, step_h, step_w) if step_c == 1 else (1,)


def weight_extents(problem: Conv2dProblem) -> tuple[int, ...]:
    """The same for the weight, contiguous along either kind of channels."""
    c, k = group_channels(problem)
    w_k, w_c, w_r, w_s = problem.weight_strides
    if w_c == 1:
        return c, w_k, w_r, w_s
    return (k, w_c, w_r, w_s) if w_k == 1 else (1,)


def output_extents(channels: int, strides: Strides) -> tuple[int, ...]:
    """The same for what is written, or added, pixel by pixel and in order."""
    step_n, step_c, step_h, step_w = strides
    if step_c == 1:
        return channels, step_n, step_h, step_w
    return (step_n, step_c, step_h) if step_w == 1 else (1,)


def pixel_run(size: tuple[int, int], strides: Strides, dtype: torch.dtype | None, alignment: int) -> int:
    """How many successive pixels of an image of `size` surely form an aligned vector in memory."""
    step_n, step_c, step_h, step_w = strides
    if dtype is None or step_c == 1 or step_w != 1 or step_h != size[1]:
        return 1
    return run(size[0] * size[1], (step_n, step_c), dtype, alignment)


def box_of(pixels: int, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(images, rows, columns) of the box of so many pixels that covers an image of `shape` with the fewest of them.

    Sides are powers of two. Of boxes that cover it equally well the widest is taken, then the highest.
    """
    batch, _, height, width = shape
    powers = [1 << i for i in range(pixels.bit_length())]
    boxes = [(pixels // (h * w), h, w) for w in powers for h in powers if h * w <= pixels]
    boxes = [box for box in boxes if max(box) <= _LONGEST_BOX]

    def rank(box: tuple[int, int, int]) -> tuple[int, int, int]:
        n, h, w = box
        return cdiv(batch, n) * cdiv(height, h) * cdiv(width, w), -w, -h

    return min(boxes, key=rank)


def residual_hints(problem: Conv2dProblem, rows_last: bool) -> tuple[int, int]:
    """RESIDUAL_UNIT and RESIDUAL_RUN."""
    strides, dtype = problem.residual_strides, problem.residual_dtype
    if strides is None or dtype is None or strides[3 if rows_last else 1] != 1:
        return 1, 1
    extents = output_extents(group_channels(problem)[1], strides)
    return (
        unit(extents, dtype, problem.alignment),
        pixel_run(problem.out_size, strides, dtype, problem.alignment),
    )


def padded(problem: Conv2dProblem) -> bool:
    """Whether the window of some output pixel reaches outside of the image."""
    for dim in range(2):
        reach = (problem.out_size[dim] - 1) * problem.stride[dim] - problem.padding[2 * dim]
        reach += (problem.kernel[dim] - 1) * problem.dilation[dim]
        if problem.padding[2 * dim] > 0 or reach >= problem.size[dim]:
            return True
    return False


def is_wide(config: TritonConfig, problem: Conv2dProblem) -> bool:
    """Whether an offset within one tensor may pass 2^31 elements, lanes that masks switch off included."""
    longest = max(config.block_m, config.block_n, config.block_k, SUM_BLOCK)
    channels, outputs = problem.in_channels + longest, problem.out_channels + longest
    # Windows reach over the edges, and classes of pixels over the last row.
    x_size = tuple(
        problem.size[dim]
        + problem.padding[2 * dim]
        + problem.padding[2 * dim + 1]
        + problem.stride[dim]
        + problem.kernel[dim] * problem.dilation[dim]
        for dim in range(2)
    )
    y_size = tuple(
        problem.out_size[dim] + problem.padding[2 * dim] + problem.kernel[dim] * problem.dilation[dim] + 1
        for dim in range(2)
    )
    walks = [
        ((problem.batch, channels, *x_size), problem.x_strides),
        ((outputs, channels, *problem.kernel), problem.weight_strides),
        ((problem.batch, outputs, *y_size), problem.y_strides),
        ((problem.batch, outputs, *problem.out_size), problem.residual_strides or NO_STRIDES),
        ((outputs,), (problem.bias_stride,)),
    ]
    return any(
        sum(size * step for size, step in zip(sizes, strides, strict=True)) >= INT32_LIMIT
        for sizes, strides in walks
    )


def input_precision(problem: Conv2dProblem) -> str:
    return "tf32" if problem.precision == "tf32" and problem.dtype == torch.float32 else "ieee"
