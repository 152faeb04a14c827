"""The CUDA backend of matmul, on a GPU or under the emulator."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import DeviceError
from tilewright.kernels.cuda import Target
from tilewright.kernels.cuda_emulated import aligned, placed
from tilewright.kernels.frozen import unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.matmul.cuda.candidates import candidates
from tilewright.kernels.matmul.cuda.config import CudaConfig
from tilewright.kernels.matmul.cuda.limits import rejects
from tilewright.kernels.matmul.cuda.plans import label, plan, slices
from tilewright.kernels.matmul.problem import MatmulProblem


class CudaMatmul:
    """``y = act(A·B + bias + residual)`` by the instances that were compiled."""

    operation = "matmul"
    config_type = CudaConfig

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.device_kinds: tuple[DeviceKind, ...] = target.device_kinds
        self._target = target

    def absent(self, kind: DeviceKind) -> Absence | None:
        return self._target.absent(kind)

    def unbuilt(self) -> Absence | None:
        return self._target.unbuilt()

    def configs(self, problem: MatmulProblem, device: DeviceSpec) -> Iterable[CudaConfig]:
        found = candidates(self._target, problem, self._target.device(device))
        return [config for config in found if self.rejects(config, problem, device) is None]

    def rejects(self, config: Any, problem: MatmulProblem, device: DeviceSpec) -> str | None:
        if problem.device != "cuda":
            if self.device_kinds != ("cpu",):
                return "the CUDA kernels do not reach CPU memory"
            problem = placed(problem)
        return rejects(self._target, config, problem, self._target.device(device))

    def bind(self, config: CudaConfig, problem: MatmulProblem) -> Launch:
        """A callable that launches on the current stream of the operands' device.

        Raises:
            DeviceError: no instance that was compiled takes the problem.
        """
        if problem.frozen_b:
            return unwrapped(self.bind(config, replace(problem, frozen_b=False)))
        if problem.device != "cuda" and not problem.alignment:
            # A problem of CPU tensors says nothing of their addresses: the emulator takes copies of some.
            launch_aligned = self.bind(config, placed(problem))
            return lambda *operands: launch_aligned(*map(aligned, operands))
        out_shape, out_dtype, keep_preact = problem.out_shape, problem.out_dtype, problem.keep_preact

        def allocate(a: Tensor) -> tuple[Tensor, Tensor | None]:
            y = torch.empty(out_shape, dtype=out_dtype, device=a.device)
            return y, torch.empty_like(y) if keep_preact else None

        if math.prod(out_shape) == 0:

            def launch_nothing(a: Tensor, *_: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
                y, preact = allocate(a)
                return y if preact is None else (y, preact)

            return launch_nothing

        planned = plan(self._target, config, problem, None)
        if isinstance(planned, str):
            raise DeviceError(f"{label(self._target, config, problem)}: {planned}")
        start = self._target.starter(planned.run, label(self._target, config, problem))
        workspace: int = planned.workspace_bytes
        offsets = slices(problem)

        def launch(
            a: Tensor, b: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
        ) -> Tensor | tuple[Tensor, Tensor]:
            y, preact = allocate(a)
            scratch = torch.empty(workspace, dtype=torch.uint8, device=a.device) if workspace else None
            if offsets is None:
                start(a, b, y, preact, bias, residual, scratch)
            else:
                for each in offsets:
                    start(a, b, y, preact, bias, residual, scratch, each)
            return y if preact is None else (y, preact)

        return launch
