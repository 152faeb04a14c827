#!/usr/bin/env python3
"""Compiles every CUDA kernel with nvcc and reports what ptxas says of each: registers, local memory, shared memory.

Fails if a kernel keeps anything in local memory (a spill, or an array that is not in registers), or on a message
C75xx: ptxas then serialises wgmma instructions or adds waits that the source lacks.

    ptxas_report.py [--arch sm_80 --arch sm_90a] [--jobs 2] [--json FILE] [file.cu …]

Without nvcc it says so and succeeds: there is nothing to read. Files whose names begin with sm90 are compiled for
sm_90a only. The compiled code is thrown away.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHS = ("sm_80", "sm_90a")


class ToolError(RuntimeError):
    """nvcc failed, or said something that this does not read."""


@dataclass
class Kernel:
    """What ptxas says of one function for one architecture; sizes in bytes."""

    name: str
    arch: str
    file: str = ""
    registers: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared: int = 0  # static; the kernels' own is dynamic
    barriers: int = 0

    def fault(self) -> str | None:
        if self.spill_stores or self.spill_loads:
            return f"spills {self.spill_stores} bytes of stores, {self.spill_loads} of loads"
        return f"keeps {self.stack} bytes in local memory" if self.stack else None


@dataclass
class Reading:
    kernels: list[Kernel]
    warnings: list[str]  # the C75xx messages


_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
_PROPERTIES = re.compile(r"Function properties for (\S+)")
_LOCAL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+)(?:\+\d+)? bytes smem")
_BARRIERS = re.compile(r"used (\d+) barriers")
_WARNING = re.compile(r"\(C75\d\d\)|\bC75\d\d\b")


def read(text: str) -> Reading:
    """The output of ``nvcc -Xptxas -v``, functions that a kernel calls included."""
    found: dict[tuple[str, str], Kernel] = {}
    warnings: list[str] = []
    entry, current, arch = None, None, ""
    for line in text.splitlines():
        if _WARNING.search(line):
            warnings.append(line.strip())
        elif match := _ENTRY.search(line):
            arch = match[2]
            entry = found.setdefault((match[1], arch), Kernel(match[1], arch))
        elif match := _PROPERTIES.search(line):
            current = found.setdefault((match[1], arch), Kernel(match[1], arch))
        elif (match := _LOCAL.search(line)) and current is not None:
            current.stack, current.spill_stores, current.spill_loads = map(int, match.groups())
        elif (match := _USED.search(line)) and entry is not None:
            entry.registers = int(match[1])
            shared, barriers = _SHARED.search(line), _BARRIERS.search(line)
            entry.shared = int(shared[1]) if shared else 0
            entry.barriers = int(barriers[1]) if barriers else 0
    return Reading(list(found.values()), warnings)


def sources() -> list[Path]:
    return sorted([*ROOT.glob("csrc/cuda/*.cu"), *ROOT.glob("kernels/*/cuda/*.cu")])


def archs_of(file: Path, archs: Sequence[str]) -> list[str]:
    return [arch for arch in archs if arch == "sm_90a" or not file.name.startswith("sm90")]


def compile_one(nvcc: str, file: Path, archs: Iterable[str]) -> tuple[Reading, float]:
    """nvcc's reading of one file, and the seconds that it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'kernels'}"]
        for arch in archs:
            command += ["-gencode", f"arch=compute_{arch.removeprefix('sm_')},code={arch}"]
        command += [
            "--expt-relaxed-constexpr",
            "-DTILEWRIGHT_HAS_CUDA=1",
            "-DTILEWRIGHT_HAS_SM90A=1",
            "-Xptxas=-v",
        ]
        command += ["-fatbin", "-o", str(Path(folder) / "out.fatbin"), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    reading = read(done.stdout + done.stderr)
    if not reading.kernels and "__global__" in file.read_text():
        raise ToolError(f"{file}: ptxas named no kernel:\n{done.stderr}")
    for kernel in reading.kernels:
        kernel.file = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
    return reading, time.monotonic() - began


def demangled(names: Sequence[str]) -> list[str]:
    """Readable names, without the namespaces and parameters that they all share."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return list(names)
    done = subprocess.run([tool, "-p"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = [re.sub(r"tilewright::(cuda::|ptx::)?", "", name) for name in done.stdout.splitlines()]
    return [name.removeprefix("void ") for name in short]


def table(kernels: Sequence[Kernel]) -> str:
    rows = [("kernel", "arch", "registers", "stack", "spills", "shared", "barriers")]
    rows += [
        (
            *(name, each.arch, str(each.registers), str(each.stack)),
            *(str(each.spill_stores + each.spill_loads), str(each.shared), str(each.barriers)),
        )
        for name, each in zip(demangled([each.name for each in kernels]), kernels, strict=True)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(1, 7)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True)) + "  " + row[0]
        for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--arch", action="append", help=f"may be repeated; {' and '.join(ARCHS)} if not given"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="where to write every row")
    parser.add_argument("files", nargs="*", type=Path, help="all CUDA sources if none is named")
    given = parser.parse_args(arguments)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("ptxas report: no nvcc on PATH, so no CUDA kernel was compiled for a GPU")
        return 0
    archs = given.arch or list(ARCHS)
    work = [
        (file.resolve(), wanted) for file in given.files or sources() if (wanted := archs_of(file, archs))
    ]
    with ThreadPoolExecutor(max(given.jobs, 1)) as pool:
        pending = [pool.submit(compile_one, nvcc, file, wanted) for file, wanted in work]
        try:
            done = [each.result() for each in pending]
        except ToolError as error:
            for each in pending:
                each.cancel()
            print(error, file=sys.stderr)
            return 1
    kernels = [kernel for reading, _ in done for kernel in reading.kernels]
    print(table(kernels))
    print(
        f"{len(kernels)} functions of {len(work)} files, {sum(seconds for _, seconds in done):.0f} s of nvcc"
    )
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps([asdict(kernel) for kernel in kernels], indent=1))
    faults = [
        f"{kernel.file}, {kernel.arch}: {kernel.name} {fault}"
        for kernel in kernels
        if (fault := kernel.fault())
    ]
    faults += [warning for reading, _ in done for warning in reading.warnings]
    for fault in faults:
        print(f"FAIL {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
