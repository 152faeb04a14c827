"""What the rest of tilewright sees of a kernel folder: devices, configs, backends.

A *backend* is one way to run one operation (``cpu``, ``triton``, ``cuda``, ``aten``, ``reference``). It lists
its configs, says in one place which of them cannot run and why, and binds a (problem, config) pair to a
callable that launches. Everything that may be slow (checks, strides, grids) happens once in ``bind``; the
callable it returns is the hot path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

DeviceKind = Literal["cpu", "cuda"]

BACKEND_NAMES = ("cuda", "triton", "cpu", "aten", "reference")
"""Every backend an operation may have; the order breaks ties between equally fast candidates."""

TEST_BACKEND_NAMES = ("cuda_emulated",)
"""Backends that run only where they are asked for by name: they compute on slow stand-ins for a device."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What a choice may know about a device. Rates are for the whole device; sizes are in bytes.

    ``measured`` says whether the rates were probed on this very machine (``tilewright doctor``,
    ``tilewright.tune``) or estimated from data sheets and the clock.
    """

    kind: DeviceKind
    name: str  # "AMD EPYC 9355", "NVIDIA H100 80GB HBM3"
    arch: str  # CPU: the ISA level in use (avx512, avx2, portable); CUDA: sm_90
    units: int  # CPU cores, or streaming multiprocessors
    clock_hz: float
    peak_fp32: float  # FLOP/s, IEEE fp32 multiply-adds count as two
    peak_tf32: float  # FLOP/s through tf32 matrix units; equals peak_fp32 where there are none
    peak_16bit: float  # FLOP/s, bf16 and fp16 with fp32 accumulation
    bandwidth: float  # B/s from main memory
    l1_bytes: int  # per unit
    l2_bytes: int  # CPU: per core; CUDA: whole device
    llc_bytes: int  # last-level cache, whole device
    shared_bytes: int = 0  # CUDA: the most shared memory one block may ask for
    registers: int = 0  # CUDA: 32-bit registers per multiprocessor
    launch_seconds: float = 0.0  # cost of starting one kernel
    driver: str = ""
    measured: bool = False
    hypothetical: bool = False  # described from a data sheet, not a device of this machine

    @property
    def capability(self) -> int:
        """CUDA compute capability as one number (90 for sm_90), 0 for CPUs."""
        return int(self.arch.removeprefix("sm_").rstrip("af")) if self.kind == "cuda" else 0

    def peak(self, dtype: torch.dtype, precision: str = "ieee") -> float:
        """FLOP/s for matrix products of `dtype` operands under `precision` (``ieee`` or ``tf32``)."""
        if dtype in (torch.bfloat16, torch.float16):
            return self.peak_16bit
        if dtype == torch.float64:
            return self.peak_fp32 / 2
        return self.peak_tf32 if precision == "tf32" else self.peak_fp32


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a backend is not here, and what would bring it."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


class Config(Protocol):
    """A frozen, hashable dataclass of ints and strings: the parameters of one kernel.

    ``str(config)`` is its short printed form, for example ``tiled 128x128x32 g8 w8 s4``.
    """

    @property
    def algorithm(self) -> str: ...

    def __hash__(self) -> int: ...


def absence(backend: Backend, device: DeviceSpec) -> Absence | None:
    """Why the backend cannot serve the device; a device that is not here is taken to have all it needs."""
    if not device.hypothetical:
        return backend.absent(device.kind)
    if device.kind in backend.device_kinds:
        # Kernels that must have been compiled beforehand are unknown where they were not.
        unbuilt: Callable[[], Absence | None] | None = getattr(backend, "unbuilt", None)
        return None if unbuilt is None else unbuilt()
    return Absence(
        f"the {backend.name} backend is not written for {device.kind} devices", "nothing to be done"
    )


Launch = Callable[..., Any]
"""A bound kernel. Takes the operation's tensors positionally, allocates and returns the output(s).

Where the problem says that an operand is frozen (``MatmulProblem.frozen_b``, ``Conv2dProblem.frozen_weight``), a
launch gets a ``frozen.FrozenOperand`` in its place and may keep packed forms there. It keeps nothing of any operand
itself: one launch serves every layer that poses its problem, from several threads at once.
"""


class Backend(Protocol):
    """One way to run one operation. Instances live in ``kernels/<operation>/<name>`` as ``BACKEND``."""

    name: str
    operation: str
    config_type: type[Any]
    device_kinds: tuple[DeviceKind, ...]  # what it is written for, whether or not this machine has it

    def absent(self, kind: DeviceKind) -> Absence | None:
        """None where the backend can run on devices of this kind in this process, else why not."""
        ...

    def configs(self, problem: Any, device: DeviceSpec) -> Iterable[Any]:
        """Every config worth trying for the problem, best guess first. Needs no device to be present."""
        ...

    def rejects(self, config: Any, problem: Any, device: DeviceSpec) -> str | None:
        """None if the config runs the problem on the device correctly, else a sentence that says why not.

        The single statement of what a config can run: tuner, cost model, ``explain`` and tests all ask it.
        It must also hold against configs that were read from a file: wrong types and absurd sizes are
        rejected, never raised on and never launched.
        """
        ...

    def bind(self, config: Any, problem: Any) -> Launch:
        """A callable that runs exactly this problem with this config. `rejects` was asked before."""
        ...
