"""Which backends are under test here, on which device and at which ISA level."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tilewright.kernels import registry
from tilewright.kernels.interface import Backend, DeviceSpec
from tilewright.tuner import device

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
EMULATING = "TILEWRIGHT_EMULATOR" in os.environ


@dataclass(frozen=True)
class Subject:
    """One backend on one device; on CPUs, at one ISA level."""

    operation: str
    name: str
    device: str
    level: str = ""

    @property
    def backend(self) -> Backend:
        return registry.backend(self.operation, self.name)

    @property
    def spec(self) -> DeviceSpec:
        spec = device.current("cuda" if self.device == "cuda" else "cpu")
        return dataclasses.replace(spec, arch=self.level) if self.level else spec

    @property
    def interpreted(self) -> bool:
        return INTERPRETING and self.name == "triton"

    @property
    def emulated(self) -> bool:
        return self.name == "cuda_emulated"

    @property
    def slow(self) -> bool:
        """Interpreted or emulated: large cases are left out, and only a few configs of each are run."""
        return self.interpreted or self.emulated

    @property
    def compiles(self) -> bool:
        """Half a second of compiling for every config of every case: one config of each case is run."""
        return not INTERPRETING and self.name == "triton"

    @property
    def rounds_fp32(self) -> bool:
        """The CUDA kernels have no fp32 product on tensor cores but tf32's: that precision is asked for."""
        return self.name in ("cuda", "cuda_emulated")

    def posed(self, problem: Any, inputs: Sequence[Any]) -> Any:
        """The problem as this backend is asked it."""
        if self.rounds_fp32 and problem.dtype == torch.float32:
            problem = dataclasses.replace(problem, precision="tf32")
        if self.emulated:
            # Problems of CPU tensors say nothing of addresses; a GPU's would.
            address = 16
            for tensor in inputs:
                tensor = getattr(tensor, "tensor", tensor)
                address |= tensor.data_ptr() if tensor is not None else 0
            problem = dataclasses.replace(problem, alignment=address & -address)
        return problem

    def __str__(self) -> str:
        return "-".join(part for part in (self.name, self.level, self.device) if part)


def subjects(operation: str) -> list[Subject]:
    """Triton alone where it is interpreted (it cannot compile in the same process), the emulated kernels alone where
    the emulator was named, else all the others."""
    if INTERPRETING:
        return [Subject(operation, "triton", "cpu")]
    if EMULATING:
        return [Subject(operation, "cuda_emulated", "cpu")]
    found = []
    for name in registry.backends(operation):
        backend = registry.backend(operation, name)
        if backend.absent("cpu") is None:
            if name == "cpu":
                from tilewright import _C

                found += [Subject(operation, name, "cpu", level) for level in _C.cpu_info()["isa_levels"]]
            else:
                found.append(Subject(operation, name, "cpu"))
        if torch.cuda.is_available() and name != "cpu" and backend.absent("cuda") is None:
            found.append(Subject(operation, name, "cuda"))
    return found
