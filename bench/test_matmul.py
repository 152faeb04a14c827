"""Matrix products of the published lists: torch's ways, and tilewright's, in one group per shape.

pytest bench/test_matmul.py --shapes bert,llama --dtype bf16 --benchmark-json out.json

``tilewright bench matmul`` times the same contenders interleaved and with a probe of the machine's pace; this
file gives them to pytest-benchmark's comparison and storage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tilewright.benchmark.contenders import lineup
from tilewright.benchmark.matmul.operands import CUBLASLT, EAGER, PREPACKED
from tilewright.benchmark.operands import Operands
from tilewright.benchmark.results import OURS, PACKED
from tilewright.benchmark.shapes import Shape

sys.path.insert(0, str(Path(__file__).parent))
from contenders import measure, operands_of, parametrize

CONTENDERS = (*EAGER.values(), PREPACKED, CUBLASLT, OURS, PACKED, f"{OURS} cpu", f"{OURS} triton")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "matmul", "resnet,odd", CONTENDERS)


@pytest.fixture(scope="module")
def operands(shape: Shape, request: pytest.FixtureRequest) -> Iterator[Operands[Any]]:
    with operands_of(shape, request, "matmul", "linear") as found:
        yield found


def test_matmul(benchmark: Any, operands: Operands[Any], contender: str) -> None:
    measure(benchmark, operands, contender, lineup(operands))
