"""What all benchmarks share."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from tilewright.benchmark.environment import environment


def pytest_addoption(parser: pytest.Parser) -> None:
    # Lists of one operation; without them, each benchmark takes a few of its own.
    parser.addoption("--shapes", default=os.environ.get("TILEWRIGHT_BENCH_SHAPES", ""))
    parser.addoption("--dtype", default="f32", choices=["f32", "bf16", "f16"])
    parser.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Device, commit, versions and command, beside what pytest-benchmark writes."""
    output_json["environment"] = environment(torch.device(config.getoption("--device")))
