#!/usr/bin/env python3
"""Reads the machine code of the CUDA kernels in a built module: matrix units are used, local memory is not.

    check_sass.py path/to/_C.so [--cuobjdump PROGRAM]

Fails on a kernel with ``LDL`` or ``STL`` (it keeps registers in memory), on a warp-specialised kernel for sm_90a
without ``HGMMA`` and on another product kernel for tensor cores without ``HMMA``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_ARCH = re.compile(r"^\s*(?:arch = (sm_\w+)|code for (sm_\w+))")
_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")
_LOCAL = ("LDL", "STL")


@dataclass
class Function:
    """How often each opcode stands in a function for one architecture."""

    name: str
    arch: str
    opcodes: Counter[str] = field(default_factory=Counter)

    def fault(self) -> str | None:
        local = {opcode: self.opcodes[opcode] for opcode in _LOCAL if self.opcodes[opcode]}
        if local:
            return f"keeps registers in local memory: {local}"
        wanted = expected_unit(self.name)
        if wanted is not None and not self.opcodes[wanted]:
            return f"has no {wanted}"
        return None


def expected_unit(name: str) -> str | None:
    """The opcode of the matrix unit that a kernel of this (mangled) name must use, None if none is known."""
    if re.search(r"sm90_(matmul|conv2d)", name):
        return "HGMMA"
    return "HMMA" if re.search(r"tiled_matmul|implicit_gemm", name) else None


def read(lines: Iterable[str]) -> list[Function]:
    """The functions in the output of ``cuobjdump -sass``."""
    found: list[Function] = []
    arch = ""
    for line in lines:
        if match := _ARCH.match(line):
            arch = match[1] or match[2]
        elif match := _FUNCTION.match(line):
            found.append(Function(match[1], arch))
        elif found and (match := _INSTRUCTION.match(line)):
            found[-1].opcodes[match[1]] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", type=Path)
    parser.add_argument("--cuobjdump", default="cuobjdump")
    given = parser.parse_args()
    try:
        done = subprocess.run(
            [given.cuobjdump, "-sass", str(given.module)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        print(
            f"{given.cuobjdump} is not installed; give --cuobjdump that of a CUDA toolkit, or of Triton's wheel "
            "(triton/backends/nvidia/bin/cuobjdump)",
            file=sys.stderr,
        )
        return 1
    functions = read(done.stdout.splitlines())
    if done.returncode or not functions:
        print(
            f"{given.cuobjdump} finds no machine code in {given.module}: {done.stderr.strip()}",
            file=sys.stderr,
        )
        return 1
    faults = [f"{each.arch}: {each.name} {fault}" for each in functions if (fault := each.fault())]
    for fault in faults:
        print(f"FAIL {fault}", file=sys.stderr)
    units = Counter(each.arch for each in functions)
    used = {unit: sum(1 for each in functions if each.opcodes[unit]) for unit in ("HGMMA", "HMMA")}
    print(
        f"{len(functions)} functions ({', '.join(f'{n} for {arch}' for arch, n in sorted(units.items()))}), "
        f"{used['HGMMA']} with HGMMA, {used['HMMA']} with HMMA, {len(faults)} faults"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
