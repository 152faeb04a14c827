"""Which backends are under test here, on which device and at which ISA level."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import torch

from tilewright.kernels import registry
from tilewright.kernels.interface import Backend, DeviceSpec
from tilewright.tuner import device

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


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
    def slow(self) -> bool:
        """Interpreted: seconds per case, so that only a few configs of each are run."""
        return INTERPRETING and self.name == "triton"

    @property
    def compiles(self) -> bool:
        """Half a second of compiling for every config of every case: one config of each case is run."""
        return not INTERPRETING and self.name == "triton"

    def __str__(self) -> str:
        return "-".join(part for part in (self.name, self.level, self.device) if part)


def subjects(operation: str) -> list[Subject]:
    """Triton alone where it is interpreted (it cannot compile in the same process), else all the others."""
    if INTERPRETING:
        return [Subject(operation, "triton", "cpu")]
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
