"""The command line: doctor, bench, tune, explain, compile, demo. A file each."""

from __future__ import annotations

import sys

_NEEDED = ("typer", "rich")


def main() -> None:
    """Entry point of ``tilewright`` and ``python -m tilewright``."""
    try:
        from tilewright.cli.app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        print(
            f"tilewright: the command line needs {missing}, which is not installed; "
            "pip install 'tilewright[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    from tilewright.benchmark.allocator import keep_freed_memory

    keep_freed_memory()  # most commands measure
    app()
