"""``tilewright compile``: every Triton config compiled ahead of time, on any machine, for any GPU."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tilewright import aot
from tilewright.errors import ArgumentError
from tilewright.kernels import registry
from tilewright.kernels.interface import DeviceSpec
from tilewright.tuner.device import BUILTIN


def compile_command(
    arch: Annotated[str, typer.Option(help="Architectures, separated by commas.")] = "sm_80,sm_90,sm_100",
    operation: Annotated[
        str, typer.Option(help="Operations, separated by commas; empty for all that have Triton kernels.")
    ] = "",
    dtype: Annotated[str, typer.Option(help="Operand dtypes (bf16,f16,tf32,f32); empty for all.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Configs per operation and arch; 0 for all.")] = 0,
    jobs: Annotated[int, typer.Option(min=0, help="Compilers at a time; 0 for one per core.")] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one kernel may take.")] = 120.0,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write the results to this file.")
    ] = None,
) -> None:
    """Compile every Triton config ahead of time, with no GPU: registers, spills, shared memory, matrix units.

    Exits with 1 if a config does not compile, spills registers, or needs more shared memory than it declares.
    """
    console = Console()
    missing = aot.absent()
    if missing is not None:
        console.print(f"[red]{missing}[/red]")
        raise typer.Exit(1)
    try:
        work = _jobs(_operations(operation), [_device(name) for name in _split(arch)], _split(dtype), limit)
    except ArgumentError as error:
        raise typer.BadParameter(str(error)) from error
    workers = min(jobs or os.cpu_count() or 1, max(len(work), 1))
    results = _compile(console, work, workers, timeout)
    results.sort(
        key=lambda result: (result.operation, result.arch, result.problem, result.config, result.kernel)
    )
    console.print(_table(results))
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    bad = [result for result in results if not result.ok or result.spills or result.exceeds_declared]
    unknown = {result.unknown for result in results if result.unknown is not None}
    for reason in sorted(unknown):
        console.print(f"[yellow]registers and spills unknown: {reason}[/yellow]")
    console.print(f"{len(results)} kernels compiled for {arch}, {len(bad)} not as they should be")
    if bad:
        raise typer.Exit(1)


def _operations(names: str) -> list[str]:
    everything = [name for name in registry.operations() if "triton" in registry.backends(name)]
    return _split(names) or everything


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _device(arch: str) -> DeviceSpec:
    for spec in BUILTIN.values():
        if spec.arch == arch:
            return spec
    known = ", ".join(sorted({spec.arch for spec in BUILTIN.values()}))
    raise ArgumentError(f"compile: arch is {arch!r}; expected some of {known}")


def _jobs(operations: list[str], devices: list[DeviceSpec], dtypes: list[str], limit: int) -> list[aot.Job]:
    work = []
    for operation in operations:
        if "triton" not in registry.backends(operation):
            raise ArgumentError(f"compile: {operation} has no Triton backend")
        backend: Any = registry.backend(operation, "triton")
        for device in devices:
            pairs = backend.proof_jobs(device, dtypes or None)
            work += [
                aot.Job(operation, config, problem, device.arch)
                for config, problem in islice(pairs, limit or None)
            ]
    return work


def _compile(console: Console, work: list[aot.Job], workers: int, timeout: float) -> list[aot.Compiled]:
    results: list[aot.Compiled] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("compiling", total=len(work))
        for done in aot.compile_all(work, workers, timeout):
            results += done
            progress.advance(task)
    return results


def _table(results: list[aot.Compiled]) -> Table:
    table = Table(title="Triton kernels, compiled ahead of time")
    for heading in ("operation", "arch", "dtype", "config", "kernel"):
        table.add_column(heading, no_wrap=True)
    for heading in ("registers", "spills (B)", "shared (B)"):
        table.add_column(heading, justify="right")
    table.add_column("matrix instructions")
    table.add_column("seconds", justify="right")
    for result in results:
        row = [result.operation, result.arch, result.dtype, result.config, result.kernel]
        if not result.ok:
            table.add_row(*row, "", "", "", f"[red]{result.error}[/red]", f"{result.seconds:.1f}")
            continue
        table.add_row(
            *row,
            _number(result.registers),
            f"[red]{result.stack}[/red]" if result.spills else _number(result.stack),
            f"[red]{result.shared} > {result.declared_shared}[/red]"
            if result.exceeds_declared
            else str(result.shared),
            ", ".join(result.matrix_instructions) or "-",
            f"{result.seconds:.1f}",
        )
    return table


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)
