"""What a measurement depends on besides the device and the problem: the state of the software."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

import tilewright.kernels as kernels
from tilewright.kernels.interface import DeviceKind, DeviceSpec
from tilewright.tuner.device import core

JUDGED = ("tilewright", "source", "binary", "torch", "triton", "driver")
"""A row that differs from the present in one of these is stale: used only if nothing fresher is known."""

NOT_HASHED = frozenset({".md", ".so", ".cpp", ".h", ".cu", ".cuh"})


def provenance(operation: str, device: DeviceSpec) -> dict[str, str]:
    """The present state, as short strings."""
    return {
        "tilewright": version("tilewright"),
        "source": source_hash(operation),
        # Building one device's compiled kernels anew must not turn the other's rows stale.
        "binary": binary_hash(device.kind),
        "torch": str(torch.__version__),
        # Triton makes no kernel for CPUs: installing it must not turn a CPU's rows stale.
        "triton": version("triton") if device.kind == "cuda" else "",
        "driver": device.driver,
        "rates": "measured" if device.measured else "estimated",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def changes(recorded: Mapping[str, str], present: Mapping[str, str]) -> tuple[str, ...]:
    """The judged entries that differ."""
    return tuple(name for name in JUDGED if recorded.get(name, "") != present[name])


@cache
def version(package: str) -> str:
    """The installed version without importing the package; empty if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@cache
def source_hash(operation: str) -> str:
    """A hash of the operation's kernel folder and of what all kernels share beside it.

    Without C++ sources: an installed wheel has none, and in a checkout they need not be what was compiled.
    `binary_hash` stands for them.
    """
    root = Path(kernels.__file__).parent
    files = [path for path in (root / operation).rglob("*") if path.is_file()] + list(root.glob("*.py"))
    digest = hashlib.sha256()
    for path in sorted(files):
        if "__pycache__" in path.parts or path.suffix in NOT_HASHED:
            continue
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def binary_hash(kind: DeviceKind = "cpu") -> str:
    """The hash of the C++ sources, compiler and flags that the compiled core's kernels for these devices were built
    from; empty without them."""
    module = core()
    name = "source_hash" if kind == "cpu" else "cuda_source_hash"
    return str(module.build_info().get(name, "")) if module is not None else ""
