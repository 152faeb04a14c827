"""Whether Triton's kernels can run in this process: compiled for a GPU, or interpreted on the CPU.

Asking does not import Triton before it must.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from importlib import metadata

import torch
from torch import Tensor

from tilewright.kernels.interface import Absence, DeviceKind, Launch

_OLDEST = (3, 5)
INSTALL = "pip install 'tilewright[triton]'"


def absence(kind: DeviceKind, interpreter_failing: Callable[[], Absence | None]) -> Absence | None:
    """None where Triton's kernels run on devices of this kind, else why not.

    Args:
        interpreter_failing: runs one small kernel in the interpreter; called only where kernels are interpreted.
    """
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
            return interpreter_failing()
        return Absence(
            "TRITON_INTERPRET was set after Triton's kernels were loaded", "set it before Python starts"
        )
    if interpreted():
        return Absence(
            "TRITON_INTERPRET=1 makes Triton interpret its kernels instead of compiling them",
            "unset TRITON_INTERPRET before Python starts",
        )
    return _device_missing()


def interpreting() -> bool:
    """Whether this process runs Triton's kernels on the CPU. Imports Triton only if it was asked to."""
    return _asked_to_interpret() and _triton_missing() is None and interpreted()


def interpreted() -> bool:
    """Whether this process's kernels are interpreted. Triton decides when it reads them, once."""
    from tilewright.kernels import triton_blocks

    return type(triton_blocks.load_tile).__name__ == "InterpretedFunction"


def rounded_by_torch(launch: Launch) -> Launch:
    """`launch` with its fp32 outputs rounded to bf16: the interpreter would truncate them."""

    def launch_and_round(*operands: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        result = launch(*operands)
        if isinstance(result, Tensor):
            return result.bfloat16()
        return tuple(output.bfloat16() for output in result)

    return launch_and_round


def interpreter_failure(compute_one: Callable[[], Tensor], what: str) -> Absence | None:
    """None if `compute_one` computes 1 in the interpreter: Triton 3.6 runs no loop where numpy is 2.4 or newer."""
    try:
        result = compute_one()
    except Exception as error:
        return Absence(
            f"Triton's interpreter fails here ({error})", "upgrade triton, or pip install 'numpy<2.4'"
        )
    return None if result.item() == 1.0 else Absence(f"Triton's interpreter computes {what} wrongly", INSTALL)


def _asked_to_interpret() -> bool:
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def _triton_missing() -> Absence | None:
    try:
        import triton
    except ImportError as error:
        return Absence(f"Triton cannot be imported ({error})", INSTALL)
    version = getattr(triton, "__version__", "")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST:
        return Absence(f"Triton is {version or 'of unknown version'}; 3.5 is the oldest supported", INSTALL)
    return None


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
