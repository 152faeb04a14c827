"""C++ SIMD kernels for CPUs, one build for each ISA level. The walk is drawn in ../README.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import DeviceError
from tilewright.kernels.conv2d.cpu import geometry
from tilewright.kernels.conv2d.cpu.blocking import configs
from tilewright.kernels.conv2d.cpu.config import CpuConfig, rejection
from tilewright.kernels.conv2d.cpu.geometry import Part
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cpu import absent, core, launch_threads
from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.kernels.frozen import FrozenOperand, unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch

__all__ = ["BACKEND", "CpuConfig"]


class CpuConv2d:
    name = "cpu"
    operation = "conv2d"
    device_kinds: tuple[DeviceKind, ...] = ("cpu",)
    config_type = CpuConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        return absent(kind)

    def configs(self, problem: Conv2dProblem, device: DeviceSpec) -> Iterable[CpuConfig]:
        return configs(problem, device)

    def rejects(self, config: CpuConfig, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
        return rejection(config, problem, device)

    def bind(self, config: CpuConfig, problem: Conv2dProblem) -> Launch:
        """A callable that takes what the problem's direction says; everything is checked here, once.

        Raises:
            DeviceError: the compiled module is missing, or does not take the config.
        """
        if problem.direction == "input_gradient":
            parts = [(self.plan(config, problem, part), part) for part in geometry.input_gradient(problem)]
            return _gradient_launcher(parts, problem)
        plan = self.plan(config, problem, geometry.forward(problem))
        if problem.direction == "weight_gradient":
            return _weight_gradient_launcher(plan.run, problem)
        # An output without elements needs no weight, and nothing to compute says nothing about how to lay it out.
        if config.pack == "frozen" and math.prod(problem.out_shape) > 0:
            return _launcher(plan.run, problem, _packed_address(plan, config))
        launch = _launcher(plan.run, problem, Tensor.data_ptr)
        return unwrapped(launch) if problem.frozen_weight else launch

    def plan(self, config: CpuConfig, problem: Conv2dProblem, part: Part) -> Any:
        """The compiled module's plan of one launch, with all of its geometry checked.

        Raises:
            DeviceError: as `bind`.
        """
        module = core()
        if module is None:
            raise DeviceError(f"conv2d: {self.absent('cpu')}")
        try:
            return module.Conv2dPlan(
                isa=config.isa,
                algorithm=config.algorithm,
                compute=config.compute,
                batch=problem.batch,
                groups=problem.groups,
                dtype=DTYPE_NAMES[problem.dtype],
                bias_stride=problem.bias_stride,
                residual_strides=problem.residual_strides,
                bias_dtype=_name(problem.bias_dtype),
                residual_dtype=_name(problem.residual_dtype),
                activation=problem.activation,
                keep_preact=problem.keep_preact,
                block_h=config.block_h,
                block_w=config.block_w,
                block_n=config.block_n,
                block_c=config.block_c,
                parts=config.parts,
                frozen=config.pack == "frozen",
                threads=launch_threads(problem),
                **part.fields,
            )
        except ValueError as error:
            raise DeviceError(f"conv2d: {config} cannot run {problem.describe()}: {error}") from error


def _name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else DTYPE_NAMES[dtype]


def _packed_address(plan: Any, config: CpuConfig) -> Callable[[Any], int]:
    """Where the weight's packed form lies, which every size of image and every block shares; packs it on first use."""
    layout = ("cpu", *config.form)
    packed_bytes: int = plan.packed_bytes

    def pack(weight: Tensor) -> Tensor:
        form = torch.empty(packed_bytes, dtype=torch.uint8)
        plan.pack(weight.data_ptr(), form.data_ptr())
        return form

    def packed_address(weight: FrozenOperand) -> int:
        form = weight.forms.get(layout)
        if form is None:
            form = weight.pack(layout, pack)
        address: int = form.data_ptr()
        return address

    return packed_address


def _launcher(run: Launch, problem: Conv2dProblem, address_weight: Callable[[Any], int]) -> Launch:
    """The hot path: a closure for each set of operands, because testing for them takes time too."""
    shape, strides, dtype = problem.out_shape, problem.out_strides, problem.dtype
    empty, address = torch.empty_strided, Tensor.data_ptr
    keep_preact = problem.keep_preact
    has_bias, has_residual = problem.bias_dtype is not None, problem.residual_dtype is not None

    def plain(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        y = empty(shape, strides, dtype=dtype)
        run(address(x), address_weight(weight), address(y), 0, 0, 0)
        return y

    def biased(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        y = empty(shape, strides, dtype=dtype)
        run(address(x), address_weight(weight), address(y), 0, address(bias), 0)
        return y

    def general(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = empty(shape, strides, dtype=dtype)
        preact = empty(shape, strides, dtype=dtype) if keep_preact else None
        run(
            address(x),
            address_weight(weight),
            address(y),
            0 if preact is None else address(preact),
            address(bias) if has_bias else 0,
            address(residual) if has_residual else 0,
        )
        return y if preact is None else (y, preact)

    if keep_preact or has_residual:
        return general
    return biased if has_bias else plain


def _weight_gradient_launcher(run: Launch, problem: Conv2dProblem) -> Launch:
    shape, strides, dtype = problem.out_shape, problem.out_strides, problem.dtype
    # A sum of nothing: the compiled kernels have nothing to do, and write nothing.
    empty = torch.empty_strided if problem.batch * problem.m > 0 else _zeros_strided

    def launch(grad: Tensor, x: Tensor) -> Tensor:
        dw = empty(shape, strides, dtype=dtype)
        run(x.data_ptr(), grad.data_ptr(), dw.data_ptr(), 0, 0, 0)
        return dw

    return launch


def _zeros_strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype).zero_()


def _gradient_launcher(parts: list[tuple[Any, Part]], problem: Conv2dProblem) -> Launch:
    shape, strides, dtype, itemsize = (
        problem.out_shape,
        problem.out_strides,
        problem.dtype,
        problem.dtype.itemsize,
    )
    runs = [(plan.run, part.weight_offset * itemsize, part.y_offset * itemsize) for plan, part in parts]
    empty = torch.zeros if geometry.has_gaps(problem) else torch.empty

    def launch(grad: Tensor, weight: Tensor) -> Tensor:
        dx = empty(math.prod(shape), dtype=dtype).as_strided(shape, strides)
        for run, weight_offset, y_offset in runs:
            run(grad.data_ptr(), weight.data_ptr() + weight_offset, dx.data_ptr() + y_offset, 0, 0, 0)
        return dx

    return launch


BACKEND = CpuConv2d()
