"""``tilewright doctor``: what is here, what it can do, what is missing and what would bring it."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape
from rich.table import Table

from tilewright import tuner
from tilewright.cli.arguments import error_console, result_console
from tilewright.errors import Error
from tilewright.kernels import registry
from tilewright.kernels.interface import DeviceKind, DeviceSpec
from tilewright.tuner import device as devices
from tilewright.tuner.provenance import version
from tilewright.tuner.store import Store, user_store
from tilewright.version import __version__

_KINDS: tuple[DeviceKind, ...] = ("cpu", "cuda")


def doctor_command(
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure peak and bandwidth, and remember them.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show devices, their measured rates, software, backends with a remedy for each absent one, and the store."""
    remarks = error_console()
    with remarks.status("measuring peak and bandwidth") if measure else _nothing():
        found = diagnosis(measure=measure)
    if json:
        typer.echo(jsonlib.dumps(found, indent=1))
        return
    console = result_console()
    for device in found["devices"]:
        console.print(_device_table(device))
    console.print(_pairs_table("software", found["software"]))
    console.print(_backends_table(found["backends"]))
    console.print(_pairs_table("store", found["store"]))


def diagnosis(*, measure: bool) -> dict[str, Any]:
    """Everything that doctor shows, as plain data."""
    kinds: list[DeviceKind] = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    described = [
        _device(kind, index, measure)
        for kind in kinds
        for index in range(torch.cuda.device_count() if kind == "cuda" else 1)
    ]
    return {
        "devices": described,
        "software": _software(),
        "backends": _backends(),
        "store": _store(user_store().path),
    }


def _device(kind: DeviceKind, index: int, measure: bool) -> dict[str, Any]:
    spec = devices.current(kind, index)
    problem = ""
    if measure:
        try:
            spec = tuner.measure(spec, index)
        except (Error, RuntimeError) as error:
            problem = f"not measured: {error}"
    found: dict[str, Any] = {**dataclasses.asdict(spec), "problem": problem}
    if kind == "cpu":
        info = devices.core_info() or {}
        found |= {
            "isa_levels": list(info.get("isa_levels", [])),
            "features": list(info.get("features", [])),
            "threads": torch.get_num_threads(),
            "forced_isa": os.environ.get(devices.ISA_VARIABLE, ""),
        }
    return found


def _software() -> dict[str, str]:
    module = devices.core()
    found = {
        "tilewright": __version__,
        "compiled core": "missing; install tilewright with a C++20 compiler present",
        "python": platform.python_version(),
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "oneDNN": "present" if torch.backends.mkldnn.is_available() else "missing in this build of torch",
        "triton": version("triton") or "not installed; pip install 'tilewright[triton]'",
        "C++ compiler": _tool("c++", "g++", "clang++") or "none on PATH (torch.compile on CPUs needs one)",
        "nvcc": _tool("nvcc") or "none on PATH (only building CUDA kernels needs it)",
        "system": platform.platform(),
    }
    if module is not None:
        info = module.build_info()
        cuda = (
            f"CUDA for {', '.join(info['cuda_archs'])} by {info['cuda_compiler']}"
            if info["cuda"]
            else f"no CUDA ({info.get('cuda_absent', 'an older build')})"
        )
        found["compiled core"] = (
            f"{info['compiler']}, {info['build_type'] or 'no build type'}, "
            f"OpenMP {'yes' if info['openmp'] else 'no'}, {cuda}, "
            f"built for {', '.join(info['isa_levels'])}"
        )
    return found


def _tool(*names: str) -> str:
    """The version line of the first of these programs that is on PATH; empty if none is."""
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        return ""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} does not run ({error})"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    wanted = next((line for line in lines if "release" in line), lines[0] if lines else "")
    return f"{wanted.strip()} ({path})"


def _backends() -> list[dict[str, str]]:
    listed = []
    for operation in registry.operations():
        for name in registry.backends(operation):
            for kind in _KINDS:
                absence = registry.backend(operation, name).absent(kind)
                listed.append(
                    {
                        "operation": operation,
                        "backend": name,
                        "device": kind,
                        "absent": absence.reason if absence is not None else "",
                        "remedy": absence.remedy if absence is not None else "",
                    }
                )
    return listed


def _store(path: Path) -> dict[str, str]:
    """The store as a new process would find it."""
    with _warnings() as messages:
        fresh = Store(path)
        rows = fresh.every_row()
    folder = path.parent
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    stale = sum(
        1
        for row in rows
        if row.operation in registry.operations() and row.provenance.get("torch") != str(torch.__version__)
    )
    return {
        "file": str(path),
        "exists": "yes" if path.exists() else "no; it is made by the first measurement",
        "writable": "yes" if os.access(existing, os.W_OK) else "no: what is tuned holds for one process only",
        "choices": f"{len(rows)}" + (f", {stale} of them from another torch" if stale else ""),
        "health": "; ".join(messages) or "good",
    }


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What tilewright's logger says inside the block."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, collector = logging.getLogger("tilewright"), Collector(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


@contextmanager
def _nothing() -> Iterator[None]:
    yield


# Tables


def _device_table(found: dict[str, Any]) -> Table:
    fields = {field.name for field in dataclasses.fields(DeviceSpec)}
    spec = DeviceSpec(**{name: value for name, value in found.items() if name in fields})
    source = "measured" if spec.measured else "estimated"
    rows = {"architecture": spec.arch}
    if spec.kind == "cpu":
        forced = f", forced by {devices.ISA_VARIABLE}" if found["forced_isa"] else ""
        rows["architecture"] = (
            f"{spec.arch} in use{forced}; usable: {', '.join(found['isa_levels']) or 'unknown'}"
        )
        rows["features"] = ", ".join(found["features"]) or "unknown without the compiled core"
        rows["cores"] = f"{spec.units}; torch uses {found['threads']} threads"
    else:
        rows["multiprocessors"] = f"{spec.units}; {spec.shared_bytes >> 10} KiB shared memory a block"
        rows["driver"] = spec.driver or "unknown"
    rows["clock"] = f"{spec.clock_hz / 1e9:.2f} GHz announced"
    rows["caches"] = (
        f"L1 {_size(spec.l1_bytes)}, L2 {_size(spec.l2_bytes)}, last level {_size(spec.llc_bytes)}"
    )
    rows[f"{source} fp32"] = _rate(spec.peak_fp32, "FLOP/s")
    if spec.kind == "cuda":
        rows[f"{source} tf32"] = _rate(spec.peak_tf32, "FLOP/s")
    rows[f"{source} 16-bit"] = _rate(spec.peak_16bit, "FLOP/s")
    rows[f"{source} bandwidth"] = _rate(spec.bandwidth, "B/s")
    if found["problem"]:
        rows["problem"] = found["problem"]
    return _pairs_table(spec.name, rows)


def _pairs_table(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _backends_table(listed: list[dict[str, str]]) -> Table:
    table = Table(title="backends", title_justify="left")
    for heading in ("operation", "backend", "device", "here"):
        table.add_column(heading, no_wrap=True)
    table.add_column("why not, and the remedy", overflow="fold")
    for entry in listed:
        why = f"{entry['absent']}; {entry['remedy']}" if entry["absent"] else ""
        here = "[red]no[/red]" if entry["absent"] else "[green]yes[/green]"
        table.add_row(entry["operation"], entry["backend"], entry["device"], here, escape(why))
    return table


def _size(count: int) -> str:
    return f"{count / (1 << 20):g} MiB" if count >= 1 << 20 else f"{count / (1 << 10):g} KiB"


def _rate(rate: float, unit: str) -> str:
    for prefix, scale in (("T", 1e12), ("G", 1e9)):
        if rate >= scale:
            return f"{rate / scale:.3g} {prefix}{unit}"
    return f"{rate / 1e6:.3g} M{unit}"
