"""The CUDA backend of conv2d, on a GPU or under the emulator."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import DeviceError
from tilewright.kernels.conv2d.cuda.candidates import candidates
from tilewright.kernels.conv2d.cuda.config import CudaConfig
from tilewright.kernels.conv2d.cuda.limits import rejects
from tilewright.kernels.conv2d.cuda.plans import label, plan
from tilewright.kernels.conv2d.problem import Conv2dProblem, output_strides
from tilewright.kernels.cuda import Target
from tilewright.kernels.cuda_emulated import aligned, placed
from tilewright.kernels.frozen import FrozenOperand, unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch


class CudaConv2d:
    """A convolution with its epilogue by the instances that were compiled; no gradients."""

    operation = "conv2d"
    config_type = CudaConfig

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.device_kinds: tuple[DeviceKind, ...] = target.device_kinds
        self._target = target

    def absent(self, kind: DeviceKind) -> Absence | None:
        return self._target.absent(kind)

    def unbuilt(self) -> Absence | None:
        return self._target.unbuilt()

    def configs(self, problem: Conv2dProblem, device: DeviceSpec) -> Iterable[CudaConfig]:
        found = candidates(self._target, problem, self._target.device(device))
        return [config for config in found if self.rejects(config, problem, device) is None]

    def rejects(self, config: Any, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
        if problem.device != "cuda":
            if self.device_kinds != ("cpu",):
                return "the CUDA kernels do not reach CPU memory"
            problem = placed(problem)
        return rejects(self._target, config, problem, self._target.device(device))

    def bind(self, config: CudaConfig, problem: Conv2dProblem) -> Launch:
        """A callable that launches on the current stream of the operands' device.

        Raises:
            DeviceError: no instance that was compiled takes the problem.
        """
        if problem.frozen_weight:
            return self._bind_frozen(config, replace(problem, frozen_weight=False))
        if problem.device != "cuda" and not problem.alignment:
            # A problem of CPU tensors says nothing of their addresses: the emulator takes copies of some.
            launch_aligned = self.bind(config, placed(problem))
            return lambda *operands: launch_aligned(*map(aligned, operands))
        shape, strides, dtype = problem.out_shape, problem.out_strides, problem.dtype
        keep_preact = problem.keep_preact

        def allocate(x: Tensor) -> tuple[Tensor, Tensor | None]:
            y = torch.empty_strided(shape, strides, dtype=dtype, device=x.device)
            return y, torch.empty_like(y) if keep_preact else None

        if math.prod(shape) == 0:

            def launch_nothing(x: Tensor, *_: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
                y, preact = allocate(x)
                return y if preact is None else (y, preact)

            return launch_nothing

        planned = plan(self._target, config, problem, None)
        if isinstance(planned, str):
            raise DeviceError(f"{label(self._target, config, problem)}: {planned}")
        start = self._target.starter(planned.run, label(self._target, config, problem))
        workspace: int = planned.workspace_bytes

        def launch(
            x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
        ) -> Tensor | tuple[Tensor, Tensor]:
            y, preact = allocate(x)
            scratch = torch.empty(workspace, dtype=torch.uint8, device=x.device) if workspace else None
            start(x, weight, y, preact, bias, residual, scratch)
            return y if preact is None else (y, preact)

        return launch

    def _bind_frozen(self, config: CudaConfig, problem: Conv2dProblem) -> Launch:
        """Keeps the weight in channels_last, which most launches then need not pack anew (``implicit_gemm_plan.h``)."""
        if config.algorithm == "depthwise" or problem.weight_layout == "nhwc":
            return unwrapped(self.bind(config, problem))
        kept_strides = output_strides(problem.weight_shape, True)
        launch = self.bind(config, replace(problem, weight_strides=kept_strides))

        def launch_with_kept(x: Tensor, weight: FrozenOperand, *addends: Tensor | None) -> Any:
            kept = weight.forms.get(_KEPT)
            if kept is None:
                kept = weight.pack(_KEPT, _channels_last)
            return launch(x, kept, *addends)

        return launch_with_kept


_KEPT = "channels_last"
"""Under which name a frozen weight keeps its copy; the Triton kernels keep the same."""


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
