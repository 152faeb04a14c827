"""What every operation's CUDA backend knows of the compiled kernels: where they are, and what each instance is.

The same kernels come in two forms, each a *target* here: compiled by nvcc into ``tilewright._C`` for a GPU, and
compiled for the emulator, which runs them on the host and checks each of their steps (docs/emulator.md).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from tilewright.kernels.cpu import core
from tilewright.kernels.dtypes import DTYPE_NAMES, KERNEL_DTYPES
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec

OLDEST_CAPABILITY = 80
MAX_SPLIT = 64
ALIGNMENT = 16
"""Bytes: no copy is wider, so no kernel asks more of a pointer."""

_BUILD = "pip install . in the source tree, where nvcc and a GPU are present, or with TILEWRIGHT_CUDA=on"


@dataclass(frozen=True, slots=True)
class Instance:
    """A row of the compiled table: one kernel for one tile, dtype and way to copy."""

    index: int
    algorithm: str
    capability: int
    exact_architecture: bool
    dtype: str
    tf32: bool
    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    cluster: int
    threads: int
    shared_bytes: int
    copy_bytes: int = 0
    a_layout: str = ""
    b_layout: str = ""

    @property
    def tile(self) -> tuple[str, int, int, int, int, int, int]:
        """What a config fixes; layouts and copies follow from the problem."""
        return (
            *(self.algorithm, self.block_m, self.block_n, self.block_k),
            *(self.num_warps, self.num_stages, self.cluster),
        )

    @property
    def tensor_cores(self) -> bool:
        return self.dtype != "f32" or self.tf32


Start = Callable[..., None]
"""``start(a, b, y, preact, bias, residual, scratch, offsets=(0, 0, 0, 0))``: a plan's launch of tensors. Offsets, in
bytes, are those of a, b, of y and the pre-activation, and of the residual."""

NO_OFFSETS = (0, 0, 0, 0)


class Target(Protocol):
    """Where the compiled kernels run."""

    name: str  # of the backend
    device_kinds: tuple[DeviceKind, ...]

    def module(self) -> ModuleType | None:
        """What holds the kernels; None where they were not built."""
        ...

    def absent(self, kind: DeviceKind) -> Absence | None: ...

    def unbuilt(self) -> Absence | None:
        """Why it is not known what the target could run, if it is not: the instances are listed by the module."""
        ...

    def device(self, spec: DeviceSpec) -> DeviceSpec:
        """The GPU that a launch on the device `spec` amounts to."""
        ...

    def lacks(self, instance: Instance, device: DeviceSpec) -> str | None:
        """Why the instance's machine code does not run on the device, if it does not."""
        ...

    def starter(self, run: Callable[..., None], label: str) -> Start:
        """Launches by a plan's `run`. `label` names operation, config and problem in errors."""
        ...


def instances(target: Target, operation: str) -> tuple[Instance, ...]:
    """Every instance of the operation that the target was built with."""
    module = target.module()
    return () if module is None else _read(module, operation)


@functools.cache
def _read(module: ModuleType, operation: str) -> tuple[Instance, ...]:
    names = Instance.__slots__
    found = []
    for row in module.instances():
        if row["backend"] == "cuda" and row["operation"] == operation:
            fields = {name: value for name, value in row.items() if name in names}
            found.append(Instance(dtype=row["dtypes"][0], **fields))
    return tuple(found)


def multiplies(instance: Instance, dtype: torch.dtype, precision: str) -> bool:
    """Whether the instance takes operands of this dtype, and rounds them no further than the precision admits."""
    return instance.dtype == DTYPE_NAMES.get(dtype) and (not instance.tf32 or precision == "tf32")


def bad_fields(config: Any, config_type: type[Any]) -> str | None:
    """What is wrong with a config's type or numbers; it may have been read from a file."""
    if not isinstance(config, config_type):
        return f"config is a {type(config).__name__}, not a {config_type.__name__}"
    values: Any = config
    if type(values.algorithm) is not str:
        return f"algorithm is {values.algorithm!r:.40}; expected a name"
    for name in ("block_m", "block_n", "block_k", "group_m", "split_k", "num_warps", "num_stages", "cluster"):
        value = getattr(values, name)
        if type(value) is not int or not 1 <= value <= 1 << 16:
            return f"{name} is {value!r:.40}; expected a positive number"
    if values.split_k > MAX_SPLIT:
        return f"split_k is {values.split_k}; expected 1 to {MAX_SPLIT}"
    return None


def unfit_problem(problem: Any) -> str | None:
    """What no CUDA kernel takes, of any operation."""
    for role, dtype in (
        ("operand", problem.dtype),
        ("output", problem.out_dtype),
        ("bias", problem.bias_dtype),
        ("residual", problem.residual_dtype),
    ):
        if dtype is not None and dtype not in KERNEL_DTYPES:
            return f"{role} dtype is {DTYPE_NAMES.get(dtype, dtype)}; the kernels take f32, bf16 and f16"
    if problem.activation not in ACTIVATIONS:
        return f"activation is {problem.activation!r:.40}; the kernels have {', '.join(ACTIVATIONS)}"
    return None


def unfit_device(instance: Instance, target: Target, device: DeviceSpec) -> str | None:
    """Why the instance does not run on the device, if it does not."""
    if device.kind != "cuda":
        return f"runs on GPUs; the device is a {device.kind}"
    needed = f"sm_{instance.capability}" + ("a" if instance.exact_architecture else "")
    if instance.exact_architecture and device.capability != instance.capability:
        return f"is written for {needed} alone, the device is {device.arch}"
    if device.capability < max(instance.capability, OLDEST_CAPABILITY):
        return f"needs {needed} or newer, the device is {device.arch}"
    if instance.shared_bytes > device.shared_bytes:
        return (
            f"needs {-(-instance.shared_bytes // 1024)} KB of shared memory, "
            f"the device has {device.shared_bytes // 1024} KB"
        )
    return target.lacks(instance, device)


class Gpu:
    """The kernels in ``tilewright._C``, compiled for GPUs."""

    name = "cuda"
    device_kinds: tuple[DeviceKind, ...] = ("cuda",)

    def module(self) -> ModuleType | None:
        module = core()
        return module if module is not None and module.build_info()["cuda"] else None

    def absent(self, kind: DeviceKind) -> Absence | None:
        if kind != "cuda":
            return Absence("the CUDA kernels run on GPUs only", "use the cpu backend on CPUs")
        unbuilt = self.unbuilt()
        if unbuilt is not None:
            return unbuilt
        if torch.version.hip is not None:
            return Absence("torch is built for AMD GPUs", "use backend 'aten'")
        if not torch.cuda.is_available():
            if torch.version.cuda is None:
                return Absence(
                    f"torch {metadata.version('torch')} is built without CUDA",
                    "install a CUDA build of torch",
                )
            return Absence("torch sees no CUDA device", "check nvidia-smi and CUDA_VISIBLE_DEVICES")
        return None

    def unbuilt(self) -> Absence | None:
        module = core()
        if module is None:
            return Absence("the compiled module tilewright._C was not built", _BUILD)
        info = module.build_info()
        if info["cuda"]:
            return None
        # In a checkout, what was compiled may be older than this file.
        why = info.get("cuda_absent", "by an older source tree")
        return Absence(f"tilewright was built without CUDA ({why})", _BUILD)

    def device(self, spec: DeviceSpec) -> DeviceSpec:
        return spec

    def lacks(self, instance: Instance, device: DeviceSpec) -> str | None:
        module = self.module()
        built = () if module is None else tuple(module.build_info()["cuda_archs"])
        if any(runs_on(arch, device.capability) for arch in built):
            return None
        return (
            f"was built for {', '.join(built)}, none of which runs on {device.arch}; "
            f"build with TILEWRIGHT_CUDA_ARCHS={device.arch}"
        )

    def starter(self, run: Callable[..., None], label: str) -> Start:
        current_device = torch.cuda.current_device
        stream_of = vars(torch._C)["_cuda_getCurrentRawStream"]

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
            where = addresses(a, b, y, preact, bias, residual, scratch, offsets)
            index = a.device.index
            here = current_device()
            if index is None or index == here:
                run(*where, here, stream_of(here))
            else:
                with torch.cuda.device(index):
                    run(*where, index, stream_of(index))

        return start


def runs_on(arch: str, capability: int) -> bool:
    """Whether machine code or PTX of this name runs on a GPU of this compute capability."""
    kind, number, suffix = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", arch).groups()  # type: ignore[union-attr]
    if suffix == "a":
        return int(number) == capability
    if kind == "compute":
        return int(number) <= capability
    return int(number) // 10 == capability // 10 and int(number) <= capability


def addresses(
    a: Tensor,
    b: Tensor,
    y: Tensor,
    preact: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    scratch: Tensor | None,
    offsets: tuple[int, int, int, int],
) -> tuple[int, int, int, int, int, int, int]:
    """What a plan's `run` takes first; 0 where there is no such operand."""
    a_at, b_at, y_at, residual_at = offsets
    return (
        a.data_ptr() + a_at,
        b.data_ptr() + b_at,
        y.data_ptr() + y_at,
        0 if preact is None else preact.data_ptr() + y_at,
        0 if bias is None else bias.data_ptr(),
        0 if residual is None else residual.data_ptr() + residual_at,
        0 if scratch is None else scratch.data_ptr(),
    )


GPU = Gpu()
