"""From (config, problem) to a compiled instance with its arguments, or to why there is none."""

from __future__ import annotations

from typing import Any

from tilewright.kernels.conv2d.cuda.config import CudaConfig
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cuda import Instance, Target, instances, multiplies, unfit_device
from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.kernels.epilogue import ACTIVATION_CODES
from tilewright.kernels.interface import DeviceSpec


def plan(target: Target, config: CudaConfig, problem: Conv2dProblem, device: DeviceSpec | None) -> Any | str:
    """The plan (``CudaConv2dPlan``) that computes the problem, or why none does.

    Args:
        device: that must be able to run it; None where that was found out before.
    """
    refusal = f"no instance of {target.name} has this tile"
    found = [instance for instance in instances(target, "conv2d") if instance.tile == config.tile]
    if found:
        refusal = f"no instance with this tile multiplies {_operands(problem)}"
    for instance in sorted(found, key=lambda each: not each.tensor_cores):
        if not multiplies(instance, problem.dtype, problem.precision):
            continue
        unfit = None if device is None else unfit_device(instance, target, device)
        if unfit is not None:
            refusal = unfit
            continue
        planned: Any = plan_of(target, instance, config, problem)
        if planned.refusal is None:
            return planned
        refusal = planned.refusal
    return refusal


def plan_of(target: Target, instance: Instance, config: CudaConfig, problem: Conv2dProblem) -> Any:
    """The instance with the problem's arguments, whether it takes them or not (``plan.refusal``)."""
    module: Any = target.module()
    return module.CudaConv2dPlan(
        instance=instance.index, label=label(target, config, problem), **_arguments(config, problem)
    )


def label(target: Target, config: CudaConfig, problem: Conv2dProblem) -> str:
    return f"conv2d: {target.name} {config} on {problem.describe()}"


def _arguments(config: CudaConfig, problem: Conv2dProblem) -> dict[str, Any]:
    return {
        "batch": problem.batch,
        "groups": problem.groups,
        "in_channels": problem.in_channels // problem.groups,
        "out_channels": problem.out_channels // problem.groups,
        "size": problem.size,
        "out_size": problem.out_size,
        "kernel": problem.kernel,
        "stride": problem.stride,
        "dilation": problem.dilation,
        "padding": (problem.padding[0], problem.padding[2]),
        "x_strides": problem.x_strides,
        "weight_strides": problem.weight_strides,
        "y_strides": problem.y_strides,
        "residual_strides": problem.residual_strides,
        "bias_stride": problem.bias_stride,
        "dtype": DTYPE_NAMES[problem.dtype],
        "bias_dtype": None if problem.bias_dtype is None else DTYPE_NAMES[problem.bias_dtype],
        "residual_dtype": None if problem.residual_dtype is None else DTYPE_NAMES[problem.residual_dtype],
        "activation": ACTIVATION_CODES[problem.activation],
        "alignment": problem.alignment,
        "group_m": config.group_m,
        "split_k": config.split_k,
        "stage_x": config.layout == "nhwc",
    }


def _operands(problem: Conv2dProblem) -> str:
    name = DTYPE_NAMES.get(problem.dtype, str(problem.dtype))
    if name == "f32" and problem.precision == "ieee":
        return "f32 without rounding it (precision 'tf32' admits that)"
    return name
