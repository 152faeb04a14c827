"""What every operation's CPU backend knows of the processor and of the compiled module."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from types import ModuleType
from typing import Any

import torch

from tilewright.kernels.dtypes import DTYPE_NAMES, KERNEL_DTYPES
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec

ISA_LEVELS = ("portable", "avx2", "avx512")
"""Lowest first. A machine runs its own level and those below it."""

LANES = {"portable": 4, "avx2": 8, "avx512": 16}
"""fp32 values in a vector."""

PANEL_VECTORS = 2
"""Vectors in a panel of packed B: ``kPanelVectors`` in csrc/cpu/microkernel.h."""

COMPUTE = ("f32", "bf16")
"""What multiplies: fp32 multiply-adds (16-bit operands are widened), or the processor's dot products of bf16 pairs."""

MAX_BLOCK = 1 << 20
MAX_WORKSPACE = 1 << 30  # bytes of scratch memory of a launch
MAX_THREADS = 1024


def core() -> ModuleType | None:
    """The compiled module, or None where it was not built or does not load."""
    try:
        from tilewright import _C
    except ImportError:
        return None
    return _C


@cache
def features() -> frozenset[str]:
    """What the processor of this machine has ("avx512bf16")."""
    module = core()
    return frozenset() if module is None else frozenset(module.cpu_info()["features"])


def absent(kind: DeviceKind) -> Absence | None:
    """Why the CPU kernels cannot run in this process, if they cannot."""
    if kind != "cpu":
        return Absence("the cpu kernels run on CPUs only", "use the triton backend on GPUs")
    if core() is None:
        return Absence(
            "the compiled module tilewright._C was not built",
            "run `pip install .` in the source tree; it needs g++ 12 or newer",
        )
    return None


def launch_threads(problem: Any) -> int:
    """The team's size for a launch: the problem's, or torch's where the problem leaves it open."""
    return max(1, min(problem.threads or torch.get_num_threads(), MAX_THREADS))


def unusable(isa: str, compute: str, dtype: torch.dtype, device: DeviceSpec) -> str | None:
    """Why the device does not run kernels of this ISA level that compute so, if it does not."""
    if isa not in ISA_LEVELS:
        return f"knows no ISA level {isa!r:.40}"
    if device.arch not in ISA_LEVELS or ISA_LEVELS.index(isa) > ISA_LEVELS.index(device.arch):
        return f"needs {isa}; the level in use is {device.arch}"
    if compute == "bf16" and dtype != torch.bfloat16:
        return f"multiplies bf16 pairs; the operands are {DTYPE_NAMES.get(dtype, dtype)}"
    if compute == "bf16" and "avx512bf16" not in features():
        return "needs AVX512-BF16, which this processor lacks"
    return None


def bad_fields(config: Any, config_type: type[Any], blocks: tuple[str, ...]) -> str | None:
    """What is wrong with the types of a config's fields, or with its blocks; it may have been read from a file."""
    if not isinstance(config, config_type):
        return f"expected a {config_type.__name__}, got {type(config).__name__}"
    for field in fields(config):
        value = getattr(config, field.name)
        expected = str if field.type in (str, "str") else int
        if type(value) is not expected:
            return f"{field.name} is {value!r:.40}; expected {expected.__name__}"
    for name in blocks:
        value = getattr(config, name)
        if not 1 <= value <= MAX_BLOCK:
            return f"{name} is {value}; expected 1 to {MAX_BLOCK}"
    return None


def bad_problem(problem: Any) -> str | None:
    """What every CPU kernel refuses in a problem, if there is something."""
    if problem.device != "cpu":
        return "the CPU kernels do not reach GPU memory"
    for what, dtype in (
        ("operands", problem.dtype),
        ("output", problem.out_dtype),
        ("bias", problem.bias_dtype),
        ("residual", problem.residual_dtype),
    ):
        if dtype is not None and dtype not in KERNEL_DTYPES:
            return f"computes f32, bf16 and f16; the {what} dtype is {DTYPE_NAMES.get(dtype, dtype)}"
    if problem.activation not in ACTIVATIONS:
        return f"knows no activation {problem.activation!r:.40}"
    return None
