"""The Triton backend of conv2d."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import limits
from tilewright.kernels.conv2d.triton.candidates import candidates
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.geometry import channels_last_copy
from tilewright.kernels.frozen import FrozenOperand, unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.triton_runtime import absence, interpreted, interpreter_failure, rounded_by_torch

if TYPE_CHECKING:
    from tilewright.kernels.triton_launch import Kernel


class TritonConv2d:
    """A convolution with its epilogue, or one of its gradients; ``limits`` says which config computes which."""

    name = "triton"
    operation = "conv2d"
    device_kinds: tuple[DeviceKind, ...] = ("cuda",)
    config_type = TritonConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        return absence(kind, _interpreter_failing)

    def configs(self, problem: Conv2dProblem, device: DeviceSpec) -> Iterable[TritonConfig]:
        return candidates(problem, device)

    def rejects(self, config: Any, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
        return limits.rejects(config, problem, device)

    def bind(self, config: TritonConfig, problem: Conv2dProblem) -> Launch:
        if config.layout == "nhwc":
            return self._bind_copies(config, problem)
        if problem.frozen_weight:
            return unwrapped(self.bind(config, replace(problem, frozen_weight=False)))
        if problem.dtype == torch.bfloat16 and interpreted():
            return rounded_by_torch(_bind(config, problem, torch.float32, decode=True))
        return _bind(config, problem, problem.dtype, decode=False)

    def _bind_copies(self, config: TritonConfig, problem: Conv2dProblem) -> Launch:
        """Copies operands to channels_last before each launch; a frozen weight once."""
        copied = replace(channels_last_copy(problem), frozen_weight=False)
        launch = self.bind(replace(config, layout="as_is"), copied)
        if problem.frozen_weight:

            def launch_with_kept(first: Tensor, weight: FrozenOperand, *addends: Tensor | None) -> Any:
                kept = weight.forms.get(_KEPT)
                if kept is None:
                    kept = weight.pack(_KEPT, _channels_last)
                return launch(_channels_last(first), kept, *addends)

            return launch_with_kept

        def launch_with_copies(first: Tensor, second: Tensor, *addends: Tensor | None) -> Any:
            return launch(_channels_last(first), _channels_last(second), *addends)

        return launch_with_copies

    def proof_jobs(
        self, device: DeviceSpec, dtypes: Sequence[str] | None = None
    ) -> Iterator[tuple[TritonConfig, Conv2dProblem]]:
        """What ``tilewright compile`` compiles for `device`; see ``proof.proof_jobs``."""
        from tilewright.kernels.conv2d.triton.proof import proof_jobs

        return proof_jobs(device, dtypes)

    def shared_bytes(self, config: TritonConfig, problem: Conv2dProblem, capability: int) -> int:
        """The most shared memory that a block of the config's kernels needs; what `rejects` counts with."""
        return limits.shared_bytes(config, problem, capability)

    def ahead_of_time(self, config: TritonConfig, problem: Conv2dProblem) -> tuple[Kernel, ...]:
        """The kernels that `bind` would launch, for `tilewright.aot` to compile without a GPU."""
        from tilewright.kernels.conv2d.triton.launch import plan

        if config.layout == "nhwc":
            problem = channels_last_copy(problem)
        planned = plan(config, problem)
        return (planned.main,) if planned.finish is None else (planned.main, planned.finish)


_KEPT = "channels_last"
"""Under which name a frozen weight keeps its copy."""


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _bind(config: TritonConfig, problem: Conv2dProblem, out_dtype: torch.dtype, decode: bool) -> Launch:
    """A launch on operands as they are, with outputs of `out_dtype`."""
    shape, strides = problem.out_shape, problem.out_strides
    keep_preact, forward = problem.keep_preact, problem.direction == "forward"

    def allocate(device: torch.device) -> tuple[Tensor, Tensor | None]:
        out = torch.empty_strided(shape, strides, dtype=out_dtype, device=device)
        return out, torch.empty_like(out) if keep_preact else None

    if math.prod(shape) == 0:

        def launch_nothing(first: Tensor, *_: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
            out, preact = allocate(first.device)
            return out if preact is None else (out, preact)

        return launch_nothing

    # Here, not above: importing the kernels imports Triton.
    from tilewright.kernels.conv2d.triton.launch import plan
    from tilewright.kernels.triton_launch import Runner

    planned = plan(config, problem, out_dtype, decode)
    main, workspace = Runner(planned.main), planned.workspace
    finish = Runner(planned.finish) if planned.finish is not None else None
    # How many arguments the kernels have for what a forward convolution alone has: they are None for gradients.
    spare_main = (None,) * (len(planned.main.pointers) - 3)
    spare_finish = (None,) * (len(planned.finish.pointers) - 2) if planned.finish is not None else ()

    def run(
        index: int | None,
        first: Tensor,
        second: Tensor,
        out: Tensor,
        epilogue: tuple[Tensor | None, ...],
    ) -> None:
        if finish is None:
            main(index, first, second, out, *epilogue)
            return
        parts = torch.empty(workspace, dtype=torch.float32, device=first.device)
        main(index, first, second, parts, *spare_main)
        finish(index, parts, out, *(epilogue if forward else spare_finish))

    def launch(
        first: Tensor, second: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        out, preact = allocate(first.device)
        epilogue = (preact, bias, residual) if forward else spare_main
        index = first.device.index
        if index is None or index == torch.cuda.current_device():
            run(index, first, second, out, epilogue)
        else:
            with torch.cuda.device(index):
                run(index, first, second, out, epilogue)
        return out if preact is None else (out, preact)

    return _with_aligned_operands(launch) if planned.main.boxes and interpreted() else launch


def _with_aligned_operands(launch: Callable[..., Any]) -> Launch:
    """`launch` for the interpreter, whose descriptors are as demanding as a GPU's, though on a CPU a problem's key
    says nothing of addresses."""

    def aligned(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() % 16 == 0:
            return tensor
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)

    def launch_aligned(first: Tensor, second: Tensor, *addends: Tensor | None) -> Any:
        return launch(aligned(first), aligned(second), *addends)

    return launch_aligned


@functools.cache
def _interpreter_failing() -> Absence | None:
    one = torch.ones(1, 1, 1, 1)
    config = TritonConfig("implicit_gemm", 16, 16, 16, 1, 1, 4, 2)
    problem = Conv2dProblem.from_tensors(one, one)
    return interpreter_failure(lambda: TritonConv2d().bind(config, problem)(one, one), "1 · 1")
