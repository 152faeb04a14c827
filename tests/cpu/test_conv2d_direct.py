"""Direct convolution at every ISA level, against float64."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from tests.cpu.conv2d_support import Case, layer, random_case
from tests.cpu.support import DTYPES, LEVELS, spec
from tilewright import _C
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.cpu import BACKEND, CpuConfig, geometry
from tilewright.kernels.conv2d.cpu.config import workspace_bytes
from tilewright.kernels.conv2d.problem import Conv2dProblem

COMPUTES = [
    (row["isa"], row["compute"])
    for row in _C.instances()
    if row["operation"] == "conv2d"
    and row["algorithm"] == "direct"
    and row["isa"] in LEVELS
    and (row["compute"] == "f32" or "avx512bf16" in _C.cpu_info()["features"])
]
"""(isa, compute) of every compiled kernel that this machine runs."""


def direct(isa: str, compute: str = "f32", **fields: int | str) -> CpuConfig:
    sizes = {"block_h": 4, "block_w": 9, "block_n": 32, "parts": 1, **fields}
    return CpuConfig("direct", isa, compute=compute, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("isa", "compute"), COMPUTES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_geometry(isa: str, compute: str, dtype: torch.dtype) -> None:
    if compute == "bf16" and dtype != torch.bfloat16:
        dtype = torch.bfloat16
    pick = random.Random(f"{isa} {compute} {dtype}")
    torch.manual_seed(0)
    for _ in range(40):
        random_case(pick, dtype).check(
            direct(
                isa,
                compute,
                block_h=pick.randint(1, 9),
                block_w=pick.randint(1, 21),
                block_n=pick.choice((1, 16, 64)),
                parts=pick.randint(1, 3),
                pack=pick.choice(("shared", "frozen")),
            )
        )


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("width", [1, 2, 3, 6, 7, 8, 13, 14, 15, 29])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_width_is_cut_into_runs(isa: str, width: int, layout: str) -> None:
    case = layer((1, 5, 3, width), 33, layout=layout, padding=(1, 1, 1, 1), activation="relu")
    case.check(direct(isa, block_h=2, block_w=32))


@pytest.mark.parametrize("isa", LEVELS)
def test_padding_wider_than_the_image(isa: str) -> None:
    layer((2, 3, 2, 1), 5, (3, 3), padding=(7, 5, 6, 9)).check(direct(isa))
    layer((1, 4, 3, 3), 4, (1, 1), padding=(4, 4, 4, 4), stride=(3, 3)).check(direct(isa))


@pytest.mark.parametrize("isa", LEVELS)
def test_strided_pointwise_picks_what_it_needs(isa: str) -> None:
    for layout, stride in itertools.product(("nchw", "nhwc", "strided"), ((2, 2), (1, 3), (5, 7))):
        layer((2, 18, 11, 13), 20, (1, 1), layout=layout, stride=stride).check(direct(isa))


@pytest.mark.parametrize("isa", LEVELS)
def test_no_input_channels_leaves_the_bias(isa: str) -> None:
    layer((1, 0, 4, 4), 3, padding=(1, 1, 1, 1)).check(direct(isa))


@pytest.mark.parametrize(("isa", "compute"), COMPUTES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_threads_and_parts_decide_no_bit(isa: str, compute: str, layout: str) -> None:
    dtype = torch.bfloat16 if compute == "bf16" else torch.float32
    case = layer((2, 19, 11, 23), 70, dtype=dtype, layout=layout, padding=(1, 1, 1, 1), activation="gelu")
    expected = case.run(direct(isa, compute, block_n=256), threads=1)
    assert isinstance(expected, torch.Tensor)
    for block_n, parts, threads in ((32, 1, 1), (64, 2, 2), (1, 3, 4), (32, 1, 3)):
        config = direct(isa, compute, block_n=block_n, parts=parts, pack="frozen")
        found = case.run(config, threads=threads)
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, expected), config


@pytest.mark.parametrize("isa", LEVELS)
def test_nan_and_infinity_stay_in_their_windows(isa: str) -> None:
    case = layer((1, 4, 9, 9), 6, padding=(1, 1, 1, 1), activation="relu")
    case.x[0, 2, 0, 0] = float("nan")
    case.x[0, 1, 5, 5] = float("inf")
    expected = torch.nn.functional.conv2d(case.x, case.weight, case.bias, padding=1).relu()
    y = case.run(direct(isa))
    assert isinstance(y, torch.Tensor)
    torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize(("isa", "compute"), COMPUTES)
def test_input_gradient_is_made_of_convolutions_with_the_flipped_kernel(isa: str, compute: str) -> None:
    pick = random.Random(0)
    dtype = torch.bfloat16 if compute == "bf16" else torch.float32
    for _ in range(60):
        case = random_case(pick, dtype)
        parameters = {name: case.parameters[name] for name in ("stride", "padding", "dilation", "groups")}
        grad = torch.randn(case.problem().y_shape).to(dtype)
        problem = Conv2dProblem.from_tensors(case.x.shape, case.weight, grad=grad, threads=2, **parameters)
        config = direct(isa, compute, block_h=pick.randint(1, 9), block_w=pick.randint(1, 21))
        assert BACKEND.rejects(config, problem, spec(isa)) is None
        dx = BACKEND.bind(config, problem)(grad, case.weight)
        verdict = oracle(problem, (grad, case.weight))((dx,))
        assert verdict is None, f"{config} on {problem.describe()}: {verdict}"


@pytest.mark.parametrize("isa", LEVELS)
def test_every_listed_config_is_right(isa: str) -> None:
    cases: list[Case] = [
        layer((2, 16, 14, 14), 48, padding=(1, 1, 1, 1), activation="relu"),
        layer((1, 3, 31, 31), 20, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3), layout="nchw"),
        layer((1, 24, 9, 9), 24, groups=2, dilation=(2, 2), padding=(2, 2, 2, 2)),
    ]
    for case in cases:
        configs = [each for each in BACKEND.configs(case.problem(), spec(isa)) if each.algorithm == "direct"]
        assert configs
        for config in configs[:12]:
            case.check(config)


@pytest.mark.parametrize("isa", LEVELS)
def test_python_knows_how_much_scratch_memory_a_launch_takes(isa: str) -> None:
    pick = random.Random(1)
    for _ in range(40):
        case = random_case(pick, torch.float32)
        config = direct(
            isa, block_h=pick.randint(1, 9), block_w=pick.randint(1, 30), parts=pick.randint(1, 4)
        )
        problem = case.problem()
        plan = BACKEND.plan(config, problem, geometry.forward(problem))
        assert plan.workspace_bytes <= workspace_bytes(config, problem)
