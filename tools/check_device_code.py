#!/usr/bin/env python3
"""Fails on device code that the emulator could not follow.

- ``asm`` stands in csrc/cuda/ptx/ alone: each header there has a twin for the emulator.
- ``__shared__`` stands in csrc/cuda/platform.cuh alone: other shared memory would be ordinary variables on the host,
  where no check sees them.
- ``<<<`` stands nowhere: g++ cannot read it; kernels are started by ``launch``.

    check_device_code.py [root]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_WORD = re.compile(r"\b(?:asm|__asm__|__shared__)\b|<<<")
_COMMENTS_AND_STRINGS = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_ALLOWED = {"__shared__": "csrc/cuda/platform.cuh"}


def device_files(root: Path) -> Iterator[Path]:
    for folder in (root / "csrc" / "cuda", *sorted(root.glob("kernels/*/cuda"))):
        for suffix in ("cu", "cuh", "h", "cpp"):
            yield from sorted(folder.rglob(f"*.{suffix}"))


def faults(root: Path) -> list[str]:
    """A line for each word in a file that must not have it, as ``file:line: what and why``."""
    found = []
    for path in device_files(root):
        name = path.relative_to(root).as_posix()
        # What is blanked keeps its line breaks, so that lines keep their numbers.
        code = _COMMENTS_AND_STRINGS.sub(lambda match: "\n" * match[0].count("\n"), path.read_text())
        for match in _WORD.finditer(code):
            word = match[0].replace("__asm__", "asm")
            if (word == "asm" and name.startswith("csrc/cuda/ptx/")) or _ALLOWED.get(word) == name:
                continue
            line = code.count("\n", 0, match.start()) + 1
            where = {
                "asm": "inline PTX belongs into csrc/cuda/ptx/, with a twin under csrc/emulator/ptx/",
                "__shared__": "shared memory is dynamic: use TILEWRIGHT_SHARED",
                "<<<": "kernels are started by cuda::launch",
            }[word]
            found.append(f"{name}:{line}: {word}: {where}")
    return found


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    found = faults(root)
    if not found and not any(device_files(root)):
        found = [f"{root}: no device code here"]
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
