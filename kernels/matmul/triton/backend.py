"""The Triton backend of matmul."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tilewright.kernels.frozen import unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.triton import limits
from tilewright.kernels.matmul.triton.config import TritonConfig, candidates

if TYPE_CHECKING:
    from tilewright.kernels.matmul.triton.launch import Kernel

_OLDEST = (3, 5)
_INSTALL = "pip install 'tilewright[triton]'"


class TritonMatmul:
    """``y = act(A·B + bias + residual)`` by the kernels of `tiled`; ``limits`` says which."""

    name = "triton"
    operation = "matmul"
    device_kinds: tuple[DeviceKind, ...] = ("cuda",)
    config_type = TritonConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        if kind == "cpu" and not _asked_to_interpret():
            return Absence(
                "Triton compiles for GPUs only",
                "start Python with TRITON_INTERPRET=1 to interpret its kernels on the CPU (slow: for tests)",
            )
        missing = _triton_missing()
        if missing is not None:
            return missing
        if kind == "cpu":
            if interpreting():
                return _interpreter_failing(self)
            return Absence(
                "TRITON_INTERPRET was set after Triton's kernels were loaded", "set it before Python starts"
            )
        if interpreted():
            return Absence(
                "TRITON_INTERPRET=1 makes Triton interpret its kernels instead of compiling them",
                "unset TRITON_INTERPRET before Python starts",
            )
        return _device_missing()

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
            return _rounded_by_torch(self.bind(config, replace(problem, out_dtype=torch.float32)))

        # Here, not above: importing the kernels imports Triton.
        from tilewright.kernels.matmul.triton.launch import Runner, plan, view_from

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


def interpreting() -> bool:
    """Whether this process runs Triton's kernels on the CPU. Imports Triton only if it was asked to."""
    return _asked_to_interpret() and _triton_missing() is None and interpreted()


def interpreted() -> bool:
    """Whether this process's kernels are interpreted. Triton decides when it reads them, once."""
    from tilewright.kernels.matmul.triton import tiled

    return type(tiled.tiled_matmul).__name__ == "InterpretedFunction"


def _rounded_by_torch(launch: Launch) -> Launch:
    """`launch` with its fp32 outputs rounded to bf16: the interpreter would truncate them."""

    def launch_and_round(*operands: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        result = launch(*operands)
        if isinstance(result, Tensor):
            return result.bfloat16()
        return tuple(output.bfloat16() for output in result)

    return launch_and_round


def _asked_to_interpret() -> bool:
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def _triton_missing() -> Absence | None:
    try:
        import triton
    except ImportError as error:
        return Absence(f"Triton cannot be imported ({error})", _INSTALL)
    version = getattr(triton, "__version__", "")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST:
        return Absence(f"Triton is {version or 'of unknown version'}; 3.5 is the oldest supported", _INSTALL)
    return None


@functools.cache
def _interpreter_failing(backend: TritonMatmul) -> Absence | None:
    """Runs one product of 1 x 1 matrices: Triton 3.6 interprets no loop where numpy is 2.4 or newer."""
    one = torch.ones(1, 1)
    try:
        result = backend.bind(
            TritonConfig("tiled", 16, 16, 16, 1, 1, 4, 2), MatmulProblem.from_tensors(one, one)
        )(one, one)
    except Exception as error:
        return Absence(
            f"Triton's interpreter fails here ({error})", "upgrade triton, or pip install 'numpy<2.4'"
        )
    return None if result.item() == 1.0 else Absence("Triton's interpreter computes 1 · 1 wrongly", _INSTALL)


@functools.cache
def _device_missing() -> Absence | None:
    if torch.version.hip is not None:
        return Absence(
            "torch is built for AMD GPUs, for which these kernels are untested", "use backend 'aten'"
        )
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return Absence(
                f"torch {metadata.version('torch')} is built without CUDA", "install a CUDA build of torch"
            )
        return Absence("torch sees no CUDA device", "check nvidia-smi and CUDA_VISIBLE_DEVICES")
    from triton.runtime import driver

    try:
        # Builds a small C module the first time: better found out here than in the first launch.
        driver.active.get_current_target()
    except Exception as error:
        return Absence(
            f"Triton cannot start its CUDA driver ({type(error).__name__}: {error})",
            "install a C compiler (gcc, or name one in CC) and Python's headers",
        )
    return None
