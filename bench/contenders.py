"""Hands the contenders of `tilewright.benchmark` to pytest-benchmark, one test for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tilewright.benchmark.operands import Lineup, Subject
from tilewright.benchmark.run import in_precision
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import Shape, named
from tilewright.benchmark.suite import suite
from tilewright.tuner import device as devices

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def parametrize(metafunc: pytest.Metafunc, operation: str, default: str, contenders: Sequence[str]) -> None:
    """A test for each shape of the lists that ``--shapes`` names, and each contender."""
    shapes = named(metafunc.config.getoption("--shapes") or default, suite(operation).lists)
    metafunc.parametrize("shape", shapes, ids=lambda shape: str(shape).replace("×", "x"), scope="module")
    metafunc.parametrize("contender", contenders)


@contextmanager
def operands_of(shape: Shape, request: pytest.FixtureRequest, operation: str, layout: str) -> Iterator[Any]:
    """The shape's operands, with bias and relu, as the command line asks for them."""
    option = request.config.getoption
    settings = Settings(
        operation=operation,
        dtype=DTYPES[option("--dtype")],
        device=option("--device"),
        layout=layout,
        activation="relu",
    )
    device = torch.device(settings.device)
    spec = devices.current("cuda" if device.type == "cuda" else "cpu")
    with torch.inference_mode(), in_precision(settings):
        yield suite(operation).operands(shape, settings, device, spec.llc_bytes)


def measure(benchmark: Any, operands: Subject[Any], contender: str, found: Lineup, rounds: int = 30) -> None:
    runner = next((each for each in found.contenders if each.name == contender), None)
    if runner is None:
        pytest.skip(found.absent.get(contender, "not for this device"))
    benchmark.group = f"{operands.settings.operation} {operands.shape}"
    benchmark.extra_info["kernel"] = found.details.get(contender, "")
    benchmark.extra_info["flops"] = operands.work().flops()
    turn = iter(range(1 << 62))
    cuda = operands.device.type == "cuda"

    def once() -> None:
        runner.run(next(turn) % operands.sets)
        if cuda:
            torch.cuda.synchronize()

    with torch.inference_mode(), runner.scope():
        for index in range(operands.sets):
            runner.run(index)
        benchmark.pedantic(once, rounds=rounds, iterations=1, warmup_rounds=3)
