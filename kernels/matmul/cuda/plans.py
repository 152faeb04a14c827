"""From (config, problem) to a compiled instance with its arguments, or to why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

from tilewright.kernels.cuda import Instance, Target, instances, multiplies, unfit_device
from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.kernels.epilogue import ACTIVATION_CODES
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.cuda.config import CudaConfig
from tilewright.kernels.matmul.problem import MatmulProblem


def plan(target: Target, config: CudaConfig, problem: MatmulProblem, device: DeviceSpec | None) -> Any | str:
    """The plan (``CudaMatmulPlan``) that computes the problem with the widest copies, or why none does.

    Args:
        device: that must be able to run it; None where that was found out before.
    """
    refusal = f"no instance of {target.name} has this tile"
    found = [instance for instance in instances(target, "matmul") if instance.tile == config.tile]
    if found:
        refusal = f"no instance with this tile multiplies {_operands(problem)}"
    for instance in sorted(found, key=_preference):
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


def plan_of(target: Target, instance: Instance, config: CudaConfig, problem: MatmulProblem) -> Any:
    """The instance with the problem's arguments, whether it takes them or not (``plan.refusal``)."""
    module: Any = target.module()
    return module.CudaMatmulPlan(
        instance=instance.index, label=label(target, config, problem), **_arguments(config, problem)
    )


def label(target: Target, config: CudaConfig, problem: MatmulProblem) -> str:
    return f"matmul: {target.name} {config} on {problem.describe()}"


def slices(problem: MatmulProblem) -> tuple[tuple[int, int, int, int], ...] | None:
    """Offsets in bytes of a, b, y and the residual for each launch; None where one launch takes the whole batch.

    Two dimensions of the batch are in the grid; the canonical batch rarely has more (only where broadcast and
    sliced dimensions alternate), and then each outer index is a launch of its own.
    """
    return tuple(_slices(problem)) if len(problem.batch) > 2 else None


def _preference(instance: Instance) -> tuple[bool, int]:
    """Widest copies first; where fp32 may be rounded, tensor cores before multiply-adds."""
    return not instance.tensor_cores, -instance.copy_bytes


def _arguments(config: CudaConfig, problem: MatmulProblem) -> dict[str, Any]:
    m, n = problem.m, problem.n
    outer, inner = (1, 1, *problem.batch)[-2:]
    residual = problem.residual_strides
    # Strides of dimensions of size 1 are 0, whatever they were: they say nothing against vectors.
    sizes = (outer, inner, m)
    y = _without_ones(sizes, (inner * m * n, m * n, n, 1))
    alignment = problem.alignment
    if len(problem.batch) > 2:  # launches begin anywhere
        alignment = min(alignment, problem.dtype.itemsize)
    return {
        "m": m,
        "n": n,
        "k": problem.k,
        "batch": (outer, inner),
        "a_strides": _last_four(problem.a_strides),
        "b_strides": _last_four(problem.b_strides),
        "y_strides": y,
        "residual_strides": None if residual is None else _without_ones(sizes, _last_four(residual)),
        "bias_stride": problem.bias_stride,
        "out_dtype": DTYPE_NAMES[problem.out_dtype],
        "bias_dtype": None if problem.bias_dtype is None else DTYPE_NAMES[problem.bias_dtype],
        "residual_dtype": None if problem.residual_dtype is None else DTYPE_NAMES[problem.residual_dtype],
        "activation": ACTIVATION_CODES[problem.activation],
        "alignment": alignment,
        "group_m": config.group_m,
        "split_k": config.split_k,
    }


def _slices(problem: MatmulProblem) -> Iterator[tuple[int, int, int, int]]:
    sizes = problem.batch[:-2]
    per_slice = math.prod(problem.batch[-2:]) * problem.m * problem.n * problem.out_dtype.itemsize
    residual_dtype = problem.residual_dtype or problem.dtype
    walks = [
        (problem.a_strides[: len(sizes)], problem.dtype.itemsize),
        (problem.b_strides[: len(sizes)], problem.dtype.itemsize),
        ((problem.residual_strides or (0,) * len(sizes))[: len(sizes)], residual_dtype.itemsize),
    ]
    for number, index in enumerate(product(*map(range, sizes))):
        a, b, residual = (
            itemsize * sum(i * stride for i, stride in zip(index, strides, strict=True))
            for strides, itemsize in walks
        )
        yield a, b, number * per_slice, residual


def _last_four(strides: tuple[int, ...]) -> tuple[int, ...]:
    return (0, 0, *strides)[-4:]


def _without_ones(sizes: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, 0 for each of the leading dimensions that has size 1."""
    leading = tuple(0 if size == 1 else stride for size, stride in zip(sizes, strides, strict=False))
    return (*leading, *strides[len(sizes) :])


def _operands(problem: MatmulProblem) -> str:
    name = DTYPE_NAMES.get(problem.dtype, str(problem.dtype))
    if name == "f32" and problem.precision == "ieee":
        return "f32 without rounding it (precision 'tf32' admits that)"
    return name
