"""The Triton backend of matmul."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tilewright.kernels.frozen import unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.triton import limits
from tilewright.kernels.matmul.triton.config import TritonConfig, candidates
from tilewright.kernels.triton_runtime import absence, interpreted, interpreter_failure, rounded_by_torch

if TYPE_CHECKING:
    from tilewright.kernels.triton_launch import Kernel


class TritonMatmul:
    """``y = act(A·B + bias + residual)`` by the kernels of `tiled`; ``limits`` says which."""

    name = "triton"
    operation = "matmul"
    device_kinds: tuple[DeviceKind, ...] = ("cuda",)
    config_type = TritonConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        return absence(kind, _interpreter_failing)

    def configs(self, problem: MatmulProblem, device: DeviceSpec) -> Iterable[TritonConfig]:
        return [
            config for config in candidates(problem, device) if self.rejects(config, problem, device) is None
        ]

    def rejects(self, config: Any, problem: MatmulProblem, device: DeviceSpec) -> str | None:
        return limits.rejects(config, problem, device)

    def bind(self, config: TritonConfig, problem: MatmulProblem) -> Launch:
        if problem.frozen_b:
            return unwrapped(self.bind(config, replace(problem, frozen_b=False)))
        out_shape, out_dtype, keep_preact = problem.out_shape, problem.out_dtype, problem.keep_preact

        def allocate(a: Tensor) -> tuple[Tensor, Tensor | None]:
            y = torch.empty(out_shape, dtype=out_dtype, device=a.device)
            return y, torch.empty_like(y) if keep_preact else None

        if math.prod(out_shape) == 0:

            def launch_nothing(a: Tensor, *_: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
                y, preact = allocate(a)
                return y if preact is None else (y, preact)

            return launch_nothing

        if out_dtype == torch.bfloat16 and interpreted():
            return rounded_by_torch(self.bind(config, replace(problem, out_dtype=torch.float32)))

        # Here, not above: importing the kernels imports Triton.
        from tilewright.kernels.matmul.triton.launch import plan, view_from
        from tilewright.kernels.triton_launch import Runner

        decode = interpreted() and problem.dtype == torch.bfloat16
        planned = plan(config, problem, decode)
        main = Runner(planned.main)
        finish = Runner(planned.finish) if planned.finish is not None else None
        slices, workspace = planned.slices, planned.workspace

        def run_kernels(
            index: int | None,
            a: Tensor,
            b: Tensor,
            y: Tensor,
            preact: Tensor | None,
            bias: Tensor | None,
            residual: Tensor | None,
        ) -> None:
            if finish is None:
                main(index, a, b, y, preact, bias, residual)
                return
            parts = torch.empty(workspace, dtype=torch.float32, device=a.device)
            main(index, a, b, parts, None, None, None)
            finish(index, parts, y, preact, bias, residual)

        def run_slices(
            index: int | None,
            a: Tensor,
            b: Tensor,
            y: Tensor,
            preact: Tensor | None,
            bias: Tensor | None,
            residual: Tensor | None,
        ) -> None:
            for a_at, b_at, residual_at, y_at in slices or ():
                run_kernels(
                    index,
                    view_from(a, a_at),
                    view_from(b, b_at),
                    view_from(y, y_at),
                    None if preact is None else view_from(preact, y_at),
                    bias,
                    None if residual is None else view_from(residual, residual_at),
                )

        run = run_kernels if slices is None else run_slices

        def launch(
            a: Tensor, b: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
        ) -> Tensor | tuple[Tensor, Tensor]:
            y, preact = allocate(a)
            index = a.device.index
            if index is None or index == torch.cuda.current_device():
                run(index, a, b, y, preact, bias, residual)
            else:
                with torch.cuda.device(index):
                    run(index, a, b, y, preact, bias, residual)
            return y if preact is None else (y, preact)

        return launch

    def proof_jobs(
        self, device: DeviceSpec, dtypes: Sequence[str] | None = None
    ) -> Iterator[tuple[TritonConfig, MatmulProblem]]:
        """What ``tilewright compile`` compiles for `device`; see ``proof.proof_jobs``."""
        from tilewright.kernels.matmul.triton.proof import proof_jobs

        return proof_jobs(device, dtypes)

    def shared_bytes(self, config: TritonConfig, problem: MatmulProblem, capability: int) -> int:
        """The most shared memory that a block of the config's kernels needs; what `rejects` counts with."""
        return limits.shared_bytes(config, problem, capability)

    def ahead_of_time(self, config: TritonConfig, problem: MatmulProblem) -> tuple[Kernel, ...]:
        """The kernels that `bind` would launch, for `tilewright.aot` to compile without a GPU."""
        from tilewright.kernels.matmul.triton.launch import plan

        planned = plan(config, problem)
        return (planned.main,) if planned.finish is None else (planned.main, planned.finish)


@functools.cache
def _interpreter_failing() -> Absence | None:
    one = torch.ones(1, 1)
    config, problem = TritonConfig("tiled", 16, 16, 16, 1, 1, 4, 2), MatmulProblem.from_tensors(one, one)
    return interpreter_failure(lambda: TritonMatmul().bind(config, problem)(one, one), "1 · 1")
