"""The weight's gradient at every ISA level, against float64."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from tests.cpu.conv2d_support import Case, layer, random_case
from tests.cpu.support import DTYPES, LEVELS, spec
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.cpu import BACKEND, CpuConfig, geometry
from tilewright.kernels.conv2d.cpu.config import workspace_bytes
from tilewright.kernels.conv2d.problem import Conv2dProblem


def cut(isa: str, block_h: int = 4, block_n: int = 28, block_c: int = 32, parts: int = 1) -> CpuConfig:
    return CpuConfig("weight_gradient", isa, block_h, 1, block_n, parts=parts, block_c=block_c)


def pose(case: Case, grad: Tensor, threads: int = 2, channels_last: bool | None = None) -> Conv2dProblem:
    parameters = {name: case.parameters[name] for name in ("stride", "padding", "dilation", "groups")}
    return Conv2dProblem.from_tensors(
        case.x, case.weight.shape, grad=grad, threads=threads, channels_last=channels_last, **parameters
    )


def check(config: CpuConfig, case: Case, grad: Tensor, channels_last: bool | None = None) -> None:
    problem = pose(case, grad, channels_last=channels_last)
    assert BACKEND.rejects(config, problem, spec(config.isa)) is None
    plan = BACKEND.plan(config, problem, geometry.forward(problem))
    assert plan.workspace_bytes <= workspace_bytes(config, problem)
    dw = BACKEND.bind(config, problem)(grad, case.x)
    assert dw.stride() == problem.weight_strides
    verdict = oracle(problem, (grad, case.x))((dw,))
    assert verdict is None, f"{config} on {problem.describe()}: {verdict}"


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_geometry(isa: str, dtype: torch.dtype) -> None:
    pick = random.Random(f"{isa} {dtype}")
    for _ in range(40):
        case = random_case(pick, dtype)
        grad = torch.randn(case.problem().y_shape).to(dtype)
        if pick.random() < 0.5:
            grad = grad.to(memory_format=torch.channels_last)
        config = cut(
            isa,
            pick.randint(1, 30),
            pick.choice((1, 14, 30)),
            pick.choice((1, 32, 64)),
            pick.randint(1, 3),
        )
        check(config, case, grad, pick.choice((None, False, True)))


@pytest.mark.parametrize("isa", LEVELS)
def test_every_listed_config_is_right(isa: str) -> None:
    for case in (
        layer((3, 40, 9, 9), 30, stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1)),
        layer(
            (2, 3, 29, 29), 20, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3), dilation=(1, 1), layout="nchw"
        ),
    ):
        grad = torch.randn(case.problem().y_shape)
        configs = list(BACKEND.configs(pose(case, grad), spec(isa)))
        assert configs
        for config in configs[:12]:
            check(config, case, grad)


@pytest.mark.parametrize("isa", LEVELS)
def test_threads_decide_no_bit(isa: str) -> None:
    case = layer((3, 33, 10, 10), 30, stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1))
    grad = torch.randn(case.problem().y_shape)
    config = cut(isa, parts=3)
    results = [
        BACKEND.bind(config, pose(case, grad, threads=threads))(grad, case.x) for threads in (1, 2, 3, 5)
    ]
    for result in results[1:]:
        assert torch.equal(result, results[0])


@pytest.mark.parametrize("isa", LEVELS)
def test_more_parts_than_pixels_adds_zeros(isa: str) -> None:
    case = layer((1, 5, 2, 3), 4, (1, 1), stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1))
    check(cut(isa, block_h=1, parts=7), case, torch.randn(case.problem().y_shape))


def test_an_empty_batch_has_a_gradient_of_zeros() -> None:
    case = layer((0, 5, 4, 4), 6, stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1))
    problem = pose(case, torch.empty(case.problem().y_shape))
    dw = BACKEND.bind(cut("portable"), problem)(torch.empty(case.problem().y_shape), case.x)
    assert torch.equal(dw, torch.zeros(6, 5, 3, 3))
