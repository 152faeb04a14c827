"""The CUDA kernels under the emulator: a GPU in software, for tests (docs/emulator.md).

``make emulated`` builds the module. It is found in ``build/emulator`` of a checkout, or where ``TILEWRIGHT_EMULATOR``
says, a file or a folder.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import DeviceError
from tilewright.kernels.cuda import NO_OFFSETS, Instance, Start, addresses
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec

VARIABLE = "TILEWRIGHT_EMULATOR"
_NAME = "_emulator"

# Large enough for every instance: the figures of an H100.
_DEVICE = DeviceSpec(
    kind="cuda",
    name="emulated sm_90",
    arch="sm_90",
    units=132,
    clock_hz=1.8e9,
    peak_fp32=67e12,
    peak_tf32=495e12,
    peak_16bit=990e12,
    bandwidth=3.3e12,
    l1_bytes=256 << 10,
    l2_bytes=50 << 20,
    llc_bytes=50 << 20,
    shared_bytes=227 << 10,
    registers=65536,
    launch_seconds=4e-6,
)


class Emulated:
    """The kernels in ``_emulator``, which computes on CPU tensors and reports what a kernel does wrong."""

    name = "cuda_emulated"
    device_kinds: tuple[DeviceKind, ...] = ("cpu",)

    def module(self) -> ModuleType | None:
        return emulator()

    def absent(self, kind: DeviceKind) -> Absence | None:
        if kind != "cpu":
            return Absence("the emulator runs on the CPU only", "use the cuda backend on GPUs")
        return self.unbuilt()

    def unbuilt(self) -> Absence | None:
        if emulator() is not None:
            return None
        return Absence(
            "the emulator was not built, which serves the tests of CUDA kernels",
            f"run `make emulated` in the source tree, or set {VARIABLE}",
        )

    def device(self, spec: DeviceSpec) -> DeviceSpec:
        return _DEVICE

    def lacks(self, instance: Instance, device: DeviceSpec) -> str | None:
        return None

    def starter(self, run: Callable[..., None], label: str) -> Start:
        def start(
            a: Tensor,
            b: Tensor,
            y: Tensor,
            preact: Tensor | None,
            bias: Tensor | None,
            residual: Tensor | None,
            scratch: Tensor | None,
            offsets: tuple[int, int, int, int] = NO_OFFSETS,
        ) -> None:
            module: Any = emulator()
            given = {"a": a, "b": b, "bias": bias, "residual": residual}
            made = {"y": y, "preact": preact, "workspace": scratch}
            with _registered(module, given, made):
                run(*addresses(a, b, y, preact, bias, residual, scratch, offsets), 0, 0)
            found = module.take_reports()
            if found:
                raise DeviceError(f"{label}: {_sentence(found[0])} ({len(found)} reports in all)")

        return start


EMULATED = Emulated()


def emulator() -> ModuleType | None:
    """The emulator's module, or None where it was not built."""
    return _load(os.environ.get(VARIABLE, ""))


@functools.cache
def _load(asked: str) -> ModuleType | None:
    place = Path(asked) if asked else Path(__file__).resolve().parents[1] / "build" / "emulator"
    paths = [place] if place.is_file() else [place / (_NAME + suffix) for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    loader = ExtensionFileLoader(_NAME, str(path))
    spec = importlib.util.spec_from_file_location(_NAME, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@contextmanager
def _registered(
    module: Any, given: dict[str, Tensor | None], made: dict[str, Tensor | None]
) -> Iterator[None]:
    """Names to the emulator, for one launch, the memory that it may touch: from an operand's first element to its
    last. What is made holds nothing yet; operands may overlap one another."""
    ranges = sorted((*_extent(tensor), name) for name, tensor in given.items() if tensor is not None)
    merged: list[tuple[int, int, str]] = []
    for begin, end, name in ranges:
        if merged and begin < merged[-1][1]:
            first, last, names = merged[-1]
            merged[-1] = first, max(last, end), f"{names}, {name}"
        else:
            merged.append((begin, end, name))
    try:
        for begin, end, name in merged:
            module.register_buffer(begin, end - begin, "input", name)
        for name, tensor in made.items():
            if tensor is not None:
                begin, end = _extent(tensor)
                module.register_buffer(begin, end - begin, "output", name)
        yield
    finally:
        module.unregister_all_buffers()


def _extent(tensor: Tensor) -> tuple[int, int]:
    begin = tensor.data_ptr()
    if tensor.numel() == 0:
        return begin, begin
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.itemsize


def _sentence(report: dict[str, Any]) -> str:
    block = ", ".join(map(str, report["block"]))
    place = f" at {report['where']}" if report["where"] else ""
    return (
        f"the emulator found {report['kind']} in {report['kernel']}, block ({block}), thread "
        f"{report['thread']}{place}: {report['text']}"
    )


def aligned(tensor: Tensor | None) -> Tensor | None:
    """The tensor, or a copy whose data are aligned as the problems of CPU tensors, which say nothing of it, are taken
    to be."""
    if tensor is None or tensor.data_ptr() % 16 == 0:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def placed(problem: Any) -> Any:
    """The problem as a GPU would have it; where the addresses' alignment is not known, the best is supposed."""
    return replace(problem, device="cuda", threads=0, alignment=problem.alignment or 16)
