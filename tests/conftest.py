"""What all tests share: no test reads or writes the user's tuning store."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Set before tilewright is imported: each test process has a store of its own.
os.environ["TILEWRIGHT_CACHE_DIR"] = tempfile.mkdtemp(prefix="tilewright-tests-")
os.environ.pop("TILEWRIGHT_BACKEND", None)
# Several test processes share the cores: threads that spin while they wait would take them from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.pop("TILEWRIGHT_CPU_ISA", None)

import torch

# Enough to make partition over threads matter, few enough for several processes side by side.
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20240601)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[1]
