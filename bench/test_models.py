"""Whole models in inference: torch's ways, ONNX Runtime's and tilewright's, in one group per model and batch.

pytest bench/test_models.py --shapes resnet18@1,bert_base@1 --benchmark-json out.json

``tilewright bench models`` times the same contenders interleaved and with a probe of the machine's pace; this
file gives them to pytest-benchmark's comparison and storage. Each is built for its own test, untuned.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tilewright.benchmark.contenders import CompileBudget
from tilewright.benchmark.models.contenders import AUTOTUNED, BUILDERS, lineup
from tilewright.benchmark.models.subject import ModelSubject
from tilewright.benchmark.shapes import Shape

sys.path.insert(0, str(Path(__file__).parent))
from contenders import measure, operands_of, parametrize

CONTENDERS = tuple(name for name in BUILDERS if name != AUTOTUNED)
COMPILE_BUDGET_S = 600.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "models", "resnet18@1", CONTENDERS)


@pytest.fixture(scope="module")
def subject(shape: Shape, request: pytest.FixtureRequest) -> Iterator[ModelSubject]:
    if request.config.getoption("--device") != "cpu":
        pytest.skip("models are timed on the CPU")
    with operands_of(shape, request, "models", "") as found:
        yield found


def test_model(benchmark: Any, subject: ModelSubject, contender: str) -> None:
    subject.settings = replace(subject.settings, contenders=(contender,))
    found = lineup(subject, compile_budget=CompileBudget(COMPILE_BUDGET_S))
    measure(benchmark, subject, contender, found, rounds=10)
