"""What a CudaConfig can run: the single statement of it, `rejects`.

What depends on layouts, sizes and pointers is for the instances themselves to say (``refuses`` in conv2d.h).
"""

from __future__ import annotations

import math
from typing import Any

from tilewright.kernels.conv2d.cuda.config import LAYOUTS, CudaConfig
from tilewright.kernels.conv2d.cuda.plans import plan
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cuda import Target, bad_fields, unfit_problem
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.triton_launch import cdiv


def rejects(target: Target, config: Any, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
    """None if `config` computes `problem` on `device`, else why not. Holds against configs from a file."""
    malformed = bad_fields(config, CudaConfig) or unfit_problem(problem)
    if malformed is not None:
        return malformed
    if config.layout not in LAYOUTS:
        return f"layout is {config.layout!r:.40}; expected one of {', '.join(LAYOUTS)}"
    if problem.direction != "forward":
        return (
            f"computes convolutions, not the gradient of their {problem.direction.removesuffix('_gradient')}"
        )
    steps = max(cdiv(problem.reduction, config.block_k), 1)
    if config.split_k > steps:
        return f"split_k is {config.split_k}, the sum has only {steps} tiles of {config.block_k} terms"
    if math.prod(problem.out_shape) == 0:
        return None if device.kind == "cuda" else f"runs on GPUs; the device is a {device.kind}"
    planned = plan(target, config, problem, device)
    return planned if isinstance(planned, str) else None
