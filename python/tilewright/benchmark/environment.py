"""Where and with what a result was measured: every stored result carries this."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import tilewright
from tilewright.benchmark.allocator import allocator
from tilewright.tuner import device as devices
from tilewright.tuner.provenance import version


def environment(device: torch.device, *, threads: int | None = None) -> dict[str, Any]:
    """Device, CPU model, versions, commit, command line, date; plain data."""
    spec = devices.current("cuda" if device.type == "cuda" else "cpu", device.index or 0)
    module = devices.core()
    return {
        "device": spec.name,
        "device_kind": spec.kind,
        "arch": spec.arch,
        "units": spec.units,
        "driver": spec.driver,
        "cpu": devices.estimate("cpu").name,
        "threads": threads or torch.get_num_threads(),
        "allocator": allocator(),
        "commit": commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "tilewright": tilewright.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "cuda": str(torch.version.cuda or ""),
            "triton": version("triton"),
            "numpy": version("numpy"),
            "compiler": str(module.build_info()["compiler"]) if module is not None else "",
            "system": platform.platform(),
        },
    }


def commit() -> str:
    """The commit of the source tree that runs, with ``+`` if it was changed since; empty outside a checkout.

    Results, which the benchmarks themselves write, are no change.
    """
    root = Path(tilewright.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return os.environ.get("TILEWRIGHT_COMMIT", "")
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    return (
        head + "+"
        if head and _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
        else head
    )


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
