"""Matrix products of the published lists: torch's ways, and tilewright's, in one group per shape.

pytest bench/test_matmul.py --shapes bert,llama --dtype bf16 --benchmark-json out.json

``tilewright bench matmul`` times the same contenders interleaved and with a probe of the machine's pace; this
file gives them to pytest-benchmark's comparison and storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tilewright.benchmark.contenders import CUBLASLT, EAGER, PREPACKED, Operands, lineup
from tilewright.benchmark.results import OURS, PACKED
from tilewright.benchmark.shapes import Shape, named
from tilewright.tuner import device as devices

CONTENDERS = (*EAGER.values(), PREPACKED, CUBLASLT, OURS, PACKED, f"{OURS} cpu", f"{OURS} triton")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    shapes = named(metafunc.config.getoption("--shapes"))
    metafunc.parametrize("shape", shapes, ids=lambda s: f"{s.name} {s.m}x{s.n}x{s.k}", scope="module")
    metafunc.parametrize("contender", CONTENDERS)


@pytest.fixture(scope="module")
def operands(shape: Shape, request: pytest.FixtureRequest) -> Operands:
    device = torch.device(request.config.getoption("--device"))
    spec = devices.current("cuda" if device.type == "cuda" else "cpu")
    dtype = DTYPES[request.config.getoption("--dtype")]
    return Operands(shape, "linear", dtype, device, bias=True, activation="relu", llc_bytes=spec.llc_bytes)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_matmul(benchmark: Any, operands: Operands, contender: str) -> None:
    found = lineup(operands)
    runner = next((each for each in found.contenders if each.name == contender), None)
    if runner is None:
        pytest.skip(found.absent.get(contender, "not for this device"))
    benchmark.group = f"matmul {operands.shape}"
    benchmark.extra_info["kernel"] = found.details.get(contender, "")
    benchmark.extra_info["flops"] = operands.problem().flops()
    turn = iter(range(1 << 62))
    cuda = operands.device.type == "cuda"

    def once() -> None:
        runner.run(next(turn) % operands.sets)
        if cuda:
            torch.cuda.synchronize()

    with runner.scope():
        for index in range(operands.sets):
            runner.run(index)
        benchmark.pedantic(once, rounds=30, iterations=1, warmup_rounds=3)
