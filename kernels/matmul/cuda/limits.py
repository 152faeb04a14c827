"""What a CudaConfig can run: the single statement of it, `rejects`.

What depends on layouts, sizes and pointers is for the instances themselves to say (``refuses`` in matmul.h).
"""

from __future__ import annotations

import math
from typing import Any

from tilewright.kernels.cuda import Target, bad_fields, unfit_problem
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.cuda.config import CudaConfig
from tilewright.kernels.matmul.cuda.plans import plan
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.triton_launch import cdiv


def rejects(target: Target, config: Any, problem: MatmulProblem, device: DeviceSpec) -> str | None:
    """None if `config` computes `problem` on `device`, else why not. Holds against configs from a file."""
    malformed = bad_fields(config, CudaConfig) or unfit_problem(problem)
    if malformed is not None:
        return malformed
    steps = max(cdiv(problem.k, config.block_k), 1)
    if config.split_k > steps:
        return f"split_k is {config.split_k}, K has only {steps} tiles of {config.block_k}"
    if math.prod(problem.out_shape) == 0:
        return None if device.kind == "cuda" else f"runs on GPUs; the device is a {device.kind}"
    planned = plan(target, config, problem, device)
    return planned if isinstance(planned, str) else None
