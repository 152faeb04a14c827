#!/usr/bin/env python3
"""Fails if an ISA level's objects define a linker-visible symbol outside their own namespace.

An inline function that is compiled with AVX-512 flags under a shared name (``std::min``, a header's helper)
becomes a weak symbol, the linker may keep that copy for every caller, and the portable path then dies with an
illegal instruction on older processors. So every weak or global symbol that these objects define must lie in
``tilewright::<isa>``.

    check_isa_symbols.py --nm nm --isa avx512 a.o b.o …
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

LOCAL_TYPES = frozenset("abdnrst")
"""nm's letters for symbols that other objects do not see (lower case; u, v and w are not local)."""


def foreign_symbols(nm_output: str, isa: str) -> list[str]:
    """The symbols in ``nm --defined-only --format=posix`` output that lie outside ``tilewright::<isa>``."""
    # _ZN…: a name in a namespace. GV, TV and the like: guards, vtables; K: const members.
    inside = re.compile(rf"^_Z(?:G[VR]|T[VTISWH])?N[KVrO]*10tilewright{len(isa)}{isa}")
    found = []
    for line in nm_output.splitlines():
        fields = line.split()
        if len(fields) < 2 or line.endswith(":"):
            continue
        # AddressSanitizer adds an indicator for every global variable, named after it.
        name, kind = fields[0].removeprefix("__odr_asan."), fields[1]
        # DW.ref.* points a frame at its personality routine: data, the same in every object.
        if kind in LOCAL_TYPES or name.startswith("DW.ref."):
            continue
        if not inside.match(name):
            found.append(f"{name} ({kind})")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nm", default="nm")
    parser.add_argument("--isa", required=True)
    parser.add_argument("objects", nargs="+")
    arguments = parser.parse_args()
    failures = 0
    for path in arguments.objects:
        listing = subprocess.run(
            [arguments.nm, "--defined-only", "--format=posix", path],
            check=True,
            capture_output=True,
            text=True,
        )
        for symbol in foreign_symbols(listing.stdout, arguments.isa):
            print(f"{path}: {symbol} is outside tilewright::{arguments.isa}", file=sys.stderr)
            failures += 1
    if failures:
        print(
            f"{failures} symbol(s) compiled for {arguments.isa} could replace the portable copy; keep "
            "standard library inlines out of ISA objects and put everything else into TILEWRIGHT_ISA_NAMESPACE",
            file=sys.stderr,
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
