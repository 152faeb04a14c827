#!/usr/bin/env python3
"""Writes a C++ file that carries a hash of what the extension is made of: its sources and how they are compiled.

Measurements are filed with it, so that those of other kernels are known to be stale; an installed wheel has no
C++ sources that could be hashed then. CMake runs this whenever one of the files has changed.

    hash_sources.py --root . --output source_hash.cpp --setting "compiler GNU 12.2.0" csrc/a.cpp kernels/b.h …
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

UNIT = """// Written by tools/hash_sources.py during the build.
#include "source_hash.h"

namespace tilewright {{
constinit const char* const {} = "{}";
}}  // namespace tilewright
"""


def hash_sources(root: Path, files: Iterable[str], settings: Iterable[str]) -> str:
    """16 hexadecimal digits over settings, relative names and contents; the order of the files does not matter."""
    digest = hashlib.sha256()
    for setting in settings:
        digest.update(setting.encode() + b"\0")
    for file in sorted(files):
        content = (root / file).read_bytes()
        digest.update(f"{file}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--name", default="kSourceHash", help="of the constant")
    parser.add_argument("--setting", action="append", default=[], help="may be repeated")
    parser.add_argument("files", nargs="+", help="relative to the root")
    arguments = parser.parse_args()
    digest = hash_sources(arguments.root, arguments.files, arguments.setting)
    text = UNIT.format(arguments.name, digest)
    arguments.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
