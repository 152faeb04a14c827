"""What a config's programs ask of a multiprocessor: how many there are, their shared memory and registers."""

from __future__ import annotations

import math

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton.alignment import has_vectors
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.geometry import (
    box_of,
    group_channels,
    image_extents,
    output_extents,
    pixel_run,
    pixels_last,
    tap_steps,
    weight_extents,
)
from tilewright.kernels.triton_launch import cdiv
from tilewright.kernels.triton_tile import Tile

# Elements that a thread reads one by one in a step; each holds an address and a register at once. Fewer fit where
# the output is written one by one, too.
_MOST_TAPS = 8
_MAX_SINGLES = 48
_MAX_SINGLES_BOTH_WAYS = 32
# A thread of `depthwise` has all loads of a row of taps under way at once, for each channel of a group.
_FEW_SUMS = 16
_MAX_PIXELS_PER_WARP = (
    32  # whose numbers are divided into image, row and column, in a step of a weight's gradient
)
_DEPTHWISE_SUMS, _SMALL_GROUP_SUMS = 32, 16


def programs(config: TritonConfig, problem: Conv2dProblem) -> int:
    """Blocks of the grid's first dimension."""
    c, k = group_channels(problem)
    if problem.direction == "weight_gradient" and config.algorithm == "depthwise":
        return cdiv(problem.out_channels, config.block_n) * config.split_k
    if problem.direction == "weight_gradient":
        taps = math.prod(problem.kernel)
        flat = config.algorithm == "few_channels"
        columns = cdiv(taps * c, config.block_n) if flat else taps * cdiv(c, config.block_n)
        return cdiv(k, config.block_m) * columns * config.split_k * problem.groups
    if config.algorithm == "descriptor":
        shape = problem.out_shape
        sizes = shape[0], *shape[2:]
        boxes = zip(sizes, box_of(config.block_m, shape), strict=True)
        rows = math.prod(cdiv(length, step) for length, step in boxes)
    else:
        rows = cdiv(pixels(problem), config.block_m)
    if config.algorithm == "depthwise":
        return rows * cdiv(problem.out_shape[1], config.block_n)
    n = k if problem.direction == "forward" else c
    return rows * cdiv(n, config.block_n) * config.split_k * problem.groups


def taps_together(problem: Conv2dProblem) -> int:
    """Taps in a row of the window that a program of depthwise's weight gradient takes at once: a power of two."""
    return min(_MOST_TAPS, 1 << (problem.kernel[1] - 1).bit_length())


def pixels(problem: Conv2dProblem) -> int:
    """Rows of the product: pixels of the computed image, or of one class of them (see input_gradient.py)."""
    if problem.direction == "forward":
        return problem.batch * problem.m
    return problem.batch * math.prod(map(cdiv, problem.size, problem.stride))


def steps(config: TritonConfig, problem: Conv2dProblem) -> int:
    """Steps of BLOCK_K terms in the longest sum."""
    c, k = group_channels(problem)
    if problem.direction == "weight_gradient":
        length = config.block_m if config.algorithm == "depthwise" else config.block_k
        return cdiv(problem.batch * problem.m, length)
    if config.algorithm == "few_channels":
        return cdiv(problem.reduction, config.block_k)
    if problem.direction == "forward":
        return math.prod(problem.kernel) * cdiv(c, config.block_k)
    return math.prod(map(cdiv, problem.kernel, tap_steps(problem))) * cdiv(k, config.block_k)


def product_tile(config: TritonConfig, problem: Conv2dProblem) -> Tile:
    """The tile as the matrix unit sees it: `descriptor` multiplies weight by image, not image by weight."""
    rows, columns = config.block_m, config.block_n
    if config.algorithm == "descriptor":
        rows, columns = columns, rows
    return Tile(
        *(rows, columns, config.block_k, config.num_warps, config.num_stages),
        problem.dtype,
        problem.precision,
    )


def image_tile(config: TritonConfig, problem: Conv2dProblem) -> Tile:
    """The tile by rows of pixels (or output channels) and columns of channels, whichever way it is multiplied."""
    return Tile(
        *(config.block_m, config.block_n, config.block_k, config.num_warps, config.num_stages),
        problem.dtype,
        problem.precision,
    )


def depthwise_singles(problem: Conv2dProblem) -> bool:
    """Whether `depthwise` reads its image element by element."""
    if problem.direction == "input_gradient":
        channels, strides = problem.out_channels, problem.y_strides
    else:
        channels, strides = problem.in_channels, problem.x_strides
    plain = problem.groups == problem.in_channels == problem.out_channels
    return not plain or not has_vectors(image_extents(channels, strides), problem.dtype, problem.alignment)


def stores_singles(problem: Conv2dProblem) -> bool:
    """Whether an output's elements are not known to form vectors, and so are stored one by one."""
    if problem.direction == "weight_gradient":
        return True
    c, k = group_channels(problem)
    strides, channels = problem.out_strides, k if problem.direction == "forward" else c
    if pixels_last(strides):
        size = problem.out_shape[2], problem.out_shape[3]
        unstrided = problem.direction == "forward" or problem.stride == (1, 1)
        return not unstrided or pixel_run(size, strides, problem.dtype, 16) * problem.dtype.itemsize < 16
    return not has_vectors(output_extents(channels, strides), problem.dtype, 16)


def singles(config: TritonConfig, problem: Conv2dProblem) -> int:
    """Elements of the operands that a thread reads one by one in a step."""
    c, k = group_channels(problem)
    flat = config.algorithm == "few_channels"
    x, w, y = (
        image_extents(c, problem.x_strides),
        weight_extents(problem),
        image_extents(k, problem.y_strides),
    )
    if problem.direction == "forward":
        rows, columns = x, w
    elif problem.direction == "input_gradient":
        rows, columns = y, w
    else:
        rows, columns = y, x
    count = 0
    if (flat and problem.direction == "forward") or not has_vectors(rows, problem.dtype, problem.alignment):
        count += config.block_m
    if flat or not has_vectors(columns, problem.dtype, problem.alignment):
        count += config.block_n
    return count * config.block_k // (32 * config.num_warps)


def subtiles(config: TritonConfig, problem: Conv2dProblem) -> int:
    """Ranges of channels that the epilogue finishes one by one, so that a thread holds few addresses at once."""
    at_once = 16 if stores_singles(problem) else 32
    held = product_tile(config, problem).accumulators
    return max(1, min(4, held // at_once, config.block_n // 16))


def shared_bytes(config: TritonConfig, problem: Conv2dProblem, capability: int) -> int:
    """The most shared memory per block that the compiled kernel asks for."""
    if config.algorithm == "depthwise":
        taps = taps_together(problem) if problem.direction == "weight_gradient" else 1
        return taps * config.block_m * config.block_n * 4 + 64
    parts = 1 if problem.direction == "weight_gradient" else subtiles(config, problem)
    # Boxes of both operands arrive by barriers of their own.
    barriers = 2 * 8 * config.num_stages if config.algorithm == "descriptor" else 0
    return product_tile(config, problem).shared_bytes(capability, parts) + barriers


def too_many_registers(config: TritonConfig, problem: Conv2dProblem, capability: int) -> str | None:
    """Why a thread's registers would not hold what the config asks of them, in a sentence; None if they do."""
    tile = product_tile(config, problem)
    held = tile.accumulators
    if config.algorithm == "depthwise":
        if problem.direction == "weight_gradient":
            return _too_many_sums(held * taps_together(problem), _DEPTHWISE_SUMS)
        summed = group_channels(problem)[0 if problem.direction == "forward" else 1]
        return _too_many_sums(held, _DEPTHWISE_SUMS if summed == 1 else _SMALL_GROUP_SUMS)
    unfit = tile.unfit_step()
    if unfit is not None:
        return unfit
    if config.algorithm != "descriptor":
        read_singly = singles(config, problem)
        most = _MAX_SINGLES
        if stores_singles(problem):
            # Fragments of fp32 operands take twice the registers.
            crowded = held > _FEW_SUMS and tile.dtype.itemsize == 4
            most = _MAX_SINGLES_BOTH_WAYS // 2 if crowded else _MAX_SINGLES_BOTH_WAYS
        if read_singly > most:
            return (
                f"each thread would read {read_singly} elements one by one per step, {most} fit its registers: "
                "channels or strides are not multiples of 16 bytes"
            )
    if problem.direction == "weight_gradient" and config.block_k > _MAX_PIXELS_PER_WARP * config.num_warps:
        return f"each warp would find the places of {config.block_k // config.num_warps} pixels in a step"
    return _too_many_sums(held, _most_sums(config, problem, tile, capability))


def _too_many_sums(held: int, most: int) -> str | None:
    if held > most:
        return f"needs {held} registers per thread for the accumulator, {most} leave room for the rest"
    return None


def _most_sums(config: TritonConfig, problem: Conv2dProblem, tile: Tile, capability: int) -> int:
    """fp32 values of the accumulator that a thread can hold beside addresses, masks and operands."""
    if config.num_warps > 8:
        return 32  # a multiprocessor's registers are 128 for each of 512 threads
    reads_singles = config.algorithm != "descriptor" and singles(config, problem) > 0
    if not tile.on_matrix_units:
        return 32 if reads_singles else 64  # multiply-adds hold both operands in registers too
    if reads_singles:
        return 32 if stores_singles(problem) else 64
    if stores_singles(problem):
        return 64  # element addresses are 64-bit
    if tile.reads_shared_operands(capability):
        return 128
    # mma.sync holds fragments of both operands as well; fp32 ones are twice as large.
    fragments = tile.block_m + tile.block_n
    if (
        problem.direction == "weight_gradient"
        and tile.dtype.itemsize == 4
        and fragments > 32 * tile.num_warps
    ):
        return 32  # and every pixel's place
    too_large = tile.dtype.itemsize == 4 or tile.block_k > 64 or fragments > 64 * tile.num_warps
    return 64 if too_large else 128
