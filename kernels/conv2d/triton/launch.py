"""From (config, problem) to kernels whose arguments, but for the pointers, are all known."""

from __future__ import annotations

import torch

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.forward_plans import plan_depthwise, plan_descriptor, plan_forward
from tilewright.kernels.conv2d.triton.gradient_plans import (
    plan_depthwise_input_gradient,
    plan_depthwise_weight_gradient,
    plan_input_gradient,
    plan_weight_gradient,
)
from tilewright.kernels.conv2d.triton.plan import Plan

_PLANNERS = {
    ("forward", "implicit_gemm"): plan_forward,
    ("forward", "few_channels"): plan_forward,
    ("forward", "depthwise"): plan_depthwise,
    ("forward", "descriptor"): plan_descriptor,
    ("input_gradient", "input_gradient"): plan_input_gradient,
    ("input_gradient", "depthwise"): plan_depthwise_input_gradient,
    ("input_gradient", "descriptor"): plan_descriptor,
    ("weight_gradient", "weight_gradient"): plan_weight_gradient,
    ("weight_gradient", "depthwise"): plan_depthwise_weight_gradient,
    ("weight_gradient", "few_channels"): plan_weight_gradient,
}


def plan(
    config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype | None = None, decode: bool = False
) -> Plan:
    """What `config` launches for a problem whose output is not empty, on operands as they are.

    Args:
        out_dtype: of the outputs, if not the problem's.
        decode: turn operands into fp32 before they are multiplied.
    """
    planner = _PLANNERS[problem.direction, config.algorithm]
    return planner(config, problem, out_dtype or problem.dtype, decode)
