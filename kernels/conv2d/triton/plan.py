"""What the plans of all algorithms share: the plan itself, and what finishes a sum that was split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import pixels
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.geometry import (
    NO_STRIDES,
    SUM_BLOCK,
    Strides,
    pixels_last,
)
from tilewright.kernels.triton_launch import Kernel, cdiv

_MOST_UNROLLED = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """The kernels of one (config, problem): the product, and what finishes it if its sum is split."""

    main: Kernel
    finish: Kernel | None
    workspace: int  # fp32 elements


def finish_image(
    config: TritonConfig,
    problem: Conv2dProblem,
    out_dtype: torch.dtype,
    shape: tuple[int, ...],
    strides: Strides,
    wide: bool,
) -> Kernel:
    """Sums the parts of an image of `shape` with `strides`: y with its epilogue, or dx."""
    m, n = shape[0] * shape[2] * shape[3], shape[1]
    block_n = 32
    block_m = SUM_BLOCK // block_n
    aligned = problem.alignment % 16 == 0
    return Kernel(
        fn=pixels.sum_parts,
        grid=(cdiv(m, block_m) * cdiv(n, block_n), 1, 1),
        pointers=(torch.float32, *outputs(problem, out_dtype)),
        aligned=(True, True, True, aligned, aligned),
        scalars=(
            *(m, n),
            *shape[2:],
            *strides,
            problem.bias_stride,
            *(problem.residual_strides or NO_STRIDES),
        ),
        constants=(
            *(block_m, block_n, config.split_k),
            m % block_m == 0,
            n % block_n == 0,
            pixels_last(strides),
            wide,
            problem.activation,
        ),
        options={"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True},
    )


def options(config: TritonConfig) -> dict[str, Any]:
    # Contracting a·b + c into one rounding is what torch's kernels do too; 3.9 warns unless it is said.
    return {"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True}


def outputs(problem: Conv2dProblem, out_dtype: torch.dtype) -> tuple[torch.dtype | None, ...]:
    """What y, pre-activation, bias and residual point to."""
    preact = out_dtype if problem.keep_preact else None
    return out_dtype, preact, problem.bias_dtype, problem.residual_dtype


def window(problem: Conv2dProblem) -> tuple[int, ...]:
    """stride, (top, left) and dilation."""
    return *problem.stride, problem.padding[0], problem.padding[2], *problem.dilation


def contiguous_along(strides: Strides, dim: int, other: int) -> bool:
    return strides[dim] == 1 and strides[other] != 1


def unrolled(taps: int, summed: int) -> int:
    """UNROLLED_W: taps in a row whose loads are under way together, 0 for none, where each adds `summed` products."""
    return taps if taps * summed <= _MOST_UNROLLED else 0
