"""The program of test kernels, from the emulator's build tree (``make emulated``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .support import Emulator


@pytest.fixture(scope="session")
def emulator(repository: Path) -> Emulator:
    folder = Path(os.environ.get("TILEWRIGHT_EMULATOR") or repository / "build" / "emulator")
    program = (folder if folder.is_dir() else folder.parent) / "emulator_tests"
    if not program.exists():
        pytest.skip(f"the emulator is not built: no {program}")
    return Emulator(program)
