"""C++ SIMD kernels for CPUs, one build for each ISA level. The walk is drawn in ../README.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import DeviceError
from tilewright.kernels.cpu import absent, core, launch_threads
from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.kernels.frozen import FrozenOperand, unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.matmul.cpu.blocking import configs
from tilewright.kernels.matmul.cpu.config import CpuConfig, rejection
from tilewright.kernels.matmul.problem import MatmulProblem

__all__ = ["BACKEND", "CpuConfig"]


class CpuMatmul:
    name = "cpu"
    operation = "matmul"
    device_kinds: tuple[DeviceKind, ...] = ("cpu",)
    config_type = CpuConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        return absent(kind)

    def configs(self, problem: MatmulProblem, device: DeviceSpec) -> Iterable[CpuConfig]:
        return configs(problem, device)

    def rejects(self, config: CpuConfig, problem: MatmulProblem, device: DeviceSpec) -> str | None:
        return rejection(config, problem, device)

    def bind(self, config: CpuConfig, problem: MatmulProblem) -> Launch:
        """A callable ``launch(a, b, bias, residual)`` that returns y, or (y, pre-activation).

        Everything about the geometry is checked here, once; a launch allocates its outputs and runs.

        Raises:
            DeviceError: the compiled module is missing, or does not take the config.
        """
        module = core()
        if module is None:
            raise DeviceError(f"matmul: {self.absent('cpu')}")
        try:
            plan = module.MatmulPlan(
                isa=config.isa,
                algorithm=config.algorithm,
                m=problem.m,
                n=problem.n,
                k=problem.k,
                batch=list(problem.batch),
                a_strides=list(problem.a_strides),
                b_strides=list(problem.b_strides),
                bias_stride=problem.bias_stride,
                residual_strides=None if problem.residual_strides is None else list(problem.residual_strides),
                dtype=DTYPE_NAMES[problem.dtype],
                out_dtype=DTYPE_NAMES[problem.out_dtype],
                bias_dtype=_name(problem.bias_dtype),
                residual_dtype=_name(problem.residual_dtype),
                activation=problem.activation,
                keep_preact=problem.keep_preact,
                block_m=config.block_m,
                block_n=config.block_n,
                block_k=config.block_k,
                tile_m=config.tile_m,
                tile_n=config.tile_n,
                compute=config.compute,
                pack_b=config.pack_b,
                parts_m=config.parts_m,
                parts_n=config.parts_n,
                prefetch=config.prefetch,
                threads=launch_threads(problem),
            )
        except ValueError as error:
            raise DeviceError(f"matmul: {config} cannot run {problem.describe()}: {error}") from error
        # An output without elements needs no B, and nothing to compute says nothing about how to lay B out.
        if config.pack_b == "frozen" and math.prod(problem.out_shape) > 0:
            return _launcher(plan.run, problem, _packed_address(plan, config))
        launch = _launcher(plan.run, problem, Tensor.data_ptr)
        return unwrapped(launch) if problem.frozen_b else launch


def _name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else DTYPE_NAMES[dtype]


def _packed_address(plan: Any, config: CpuConfig) -> Callable[[Any], int]:
    """Where B's packed form lies, which every number of rows and every tile share; packs it on first use."""
    layout = ("cpu", config.isa, config.compute)
    packed_bytes: int = plan.packed_bytes

    def pack(b: Tensor) -> Tensor:
        form = torch.empty(packed_bytes, dtype=torch.uint8)
        plan.pack(b.data_ptr(), form.data_ptr())
        return form

    def packed_address(b: FrozenOperand) -> int:
        form = b.forms.get(layout)
        if form is None:
            form = b.pack(layout, pack)
        address: int = form.data_ptr()
        return address

    return packed_address


def _launcher(run: Launch, problem: MatmulProblem, address_b: Callable[[Any], int]) -> Launch:
    """The hot path: a closure for each set of operands, because testing for them takes time too."""
    shape, dtype = problem.out_shape, problem.out_dtype
    # Contiguous either way: on a tuple of sizes torch.empty takes 1.5 µs, empty_strided 1.0.
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    empty, address = torch.empty_strided, Tensor.data_ptr
    keep_preact = problem.keep_preact
    has_bias, has_residual = problem.bias_dtype is not None, problem.residual_dtype is not None

    def plain(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        y = empty(shape, strides, dtype=dtype)
        run(address(a), address_b(b), address(y), 0, 0, 0)
        return y

    def biased(a: Tensor, b: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        y = empty(shape, strides, dtype=dtype)
        run(address(a), address_b(b), address(y), 0, address(bias), 0)
        return y

    def general(a: Tensor, b: Tensor, bias: Tensor, residual: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = empty(shape, strides, dtype=dtype)
        preact = empty(shape, strides, dtype=dtype) if keep_preact else None
        run(
            address(a),
            address_b(b),
            address(y),
            0 if preact is None else address(preact),
            address(bias) if has_bias else 0,
            address(residual) if has_residual else 0,
        )
        return y if preact is None else (y, preact)

    if keep_preact or has_residual:
        return general
    return biased if has_bias else plain


BACKEND = CpuMatmul()
