"""Depthwise convolution and small groups at every ISA level, against float64."""

from __future__ import annotations

import random

import pytest
import torch

from tests.cpu.conv2d_support import SMALL_GROUPS, layer, random_case, small_groups
from tests.cpu.support import DTYPES, LEVELS, spec
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.cpu import BACKEND, CpuConfig
from tilewright.kernels.conv2d.cpu.config import workspace_bytes
from tilewright.kernels.conv2d.cpu.geometry import forward
from tilewright.kernels.conv2d.problem import Conv2dProblem


def grouped(isa: str, **fields: int | str) -> CpuConfig:
    sizes = {"block_h": 4, "block_w": 9, "block_n": 32, **fields}
    return CpuConfig("grouped", isa, **sizes)  # type: ignore[arg-type]


def any_blocks(pick: random.Random, isa: str, pack: str = "shared") -> CpuConfig:
    return grouped(
        isa,
        block_h=pick.randint(1, 9),
        block_w=pick.randint(1, 21),
        block_n=pick.choice((1, 16, 40, 200)),
        pack=pack,
    )


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_geometry(isa: str, dtype: torch.dtype) -> None:
    pick = random.Random(f"{isa} {dtype}")
    for _ in range(60):
        case = random_case(pick, dtype, small_groups)
        case.check(any_blocks(pick, isa, pick.choice(("shared", "frozen"))))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_width_is_cut_into_tiles(isa: str, dtype: torch.dtype, kernel: int, stride: int) -> None:
    pad = kernel // 2
    for width in (1, 2, 3, 5, 7, 9, 13, 14, 15, 29):
        case = layer(
            (1, 24, 3, width),
            24,
            (kernel, kernel),
            groups=24,
            dtype=dtype,
            stride=(stride, stride),
            padding=(pad, pad, pad, pad),
            activation="relu",
        )
        case.check(grouped(isa, block_h=2, block_w=32))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(("inputs", "outputs", "groups"), SMALL_GROUPS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "strided"])
def test_every_way_of_dealing_channels(isa: str, inputs: int, outputs: int, groups: int, layout: str) -> None:
    for stride, pack in ((1, "shared"), (2, "frozen")):
        case = layer(
            (2, inputs * groups, 7, 10),
            outputs * groups,
            groups=groups,
            layout=layout,
            stride=(stride, stride),
            padding=(1, 1, 1, 1),
            activation="relu",
        )
        case.check(grouped(isa, pack=pack))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("padding", [(7, 5, 6, 9), (0, 3, 2, 0), (0, 0, 0, 5), (-1, 0, -2, 1)])
def test_padding_of_any_width(isa: str, padding: tuple[int, int, int, int]) -> None:
    for stride in (1, 2, 3):
        case = layer((1, 32, 5, 6), 32, groups=32, padding=padding, stride=(stride, stride))
        if min(case.problem().y_shape) > 0:
            case.check(grouped(isa))


@pytest.mark.parametrize("isa", LEVELS)
def test_biases_of_any_dtype_and_stride(isa: str) -> None:
    for dtype in DTYPES:
        case = layer((1, 40, 6, 6), 40, groups=40, dtype=dtype, activation="relu")
        for bias in (
            torch.randn(40),
            torch.randn(40).bfloat16(),
            torch.randn(80)[::2],
            torch.randn(1).expand(40),
        ):
            case.bias = bias
            case.check(grouped(isa))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_blocks_and_threads_decide_no_bit(isa: str, layout: str) -> None:
    for inputs, groups in ((1, 37), (4, 9)):
        case = layer(
            (2, inputs * groups, 11, 23),
            inputs * groups,
            groups=groups,
            layout=layout,
            padding=(1, 1, 1, 1),
            activation="gelu",
        )
        expected = case.run(grouped(isa, block_h=64, block_w=64, block_n=256), threads=1)
        assert isinstance(expected, torch.Tensor)
        for block_h, block_w, block_n, threads in (
            (1, 23, 32, 1),
            (3, 5, 16, 2),
            (11, 8, 1, 4),
            (2, 1, 64, 3),
        ):
            config = grouped(isa, block_h=block_h, block_w=block_w, block_n=block_n, pack="frozen")
            found = case.run(config, threads=threads)
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found, expected), config


@pytest.mark.parametrize("isa", LEVELS)
def test_nan_and_infinity_stay_in_their_windows_and_groups(isa: str) -> None:
    for inputs, groups in ((1, 32), (4, 8)):
        case = layer((1, 32, 9, 9), 32, groups=groups, padding=(1, 1, 1, 1), activation="relu")
        case.x[0, 2, 0, 0] = float("nan")
        case.x[0, 17, 5, 5] = float("inf")
        expected = torch.nn.functional.conv2d(
            case.x, case.weight, case.bias, padding=1, groups=32 // inputs
        ).relu()
        y = case.run(grouped(isa))
        assert isinstance(y, torch.Tensor)
        torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize("isa", LEVELS)
def test_an_infinite_weight_meets_no_padding(isa: str) -> None:
    case = layer((1, 32, 5, 5), 32, groups=32, padding=(1, 1, 1, 1))
    case.weight[:, :, 0, 0] = float("inf")
    y = case.run(grouped(isa))
    assert isinstance(y, torch.Tensor)
    assert torch.isfinite(y[:, :, 0]).all()
    assert torch.isfinite(y[:, :, :, 0]).all()
    assert not torch.isfinite(y[:, :, 1:, 1:]).any()


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_input_gradient(isa: str, dtype: torch.dtype) -> None:
    pick = random.Random(3)
    for _ in range(20):
        case = random_case(pick, dtype, small_groups)
        parameters = {name: case.parameters[name] for name in ("stride", "padding", "dilation", "groups")}
        shape = case.problem().y_shape
        if min(shape) <= 0:
            continue
        grad = torch.randn(shape).to(dtype)
        if pick.random() < 0.5:
            grad = grad.to(memory_format=torch.channels_last)
        problem = Conv2dProblem.from_tensors(case.x.shape, case.weight, grad=grad, threads=2, **parameters)
        config = any_blocks(pick, isa)
        assert BACKEND.rejects(config, problem, spec(isa)) is None
        dx = BACKEND.bind(config, problem)(grad, case.weight)
        verdict = oracle(problem, (grad, case.weight))((dx,))
        assert verdict is None, f"{config} on {problem.describe()}: {verdict}"


@pytest.mark.parametrize("isa", LEVELS)
def test_every_listed_config_is_right(isa: str) -> None:
    for case in (
        layer((1, 48, 14, 14), 48, groups=48, padding=(1, 1, 1, 1), activation="relu"),
        layer((1, 32, 15, 15), 32, groups=32, stride=(2, 2), padding=(1, 1, 1, 1), layout="nchw"),
    ):
        configs = [
            config for config in BACKEND.configs(case.problem(), spec(isa)) if config.algorithm == "grouped"
        ]
        assert configs
        for config in configs[:12]:
            case.check(config)


@pytest.mark.parametrize("isa", LEVELS)
def test_python_knows_how_much_scratch_memory_a_launch_takes(isa: str) -> None:
    pick = random.Random(1)
    for _ in range(60):
        case = random_case(pick, pick.choice(DTYPES), small_groups)
        config, problem = any_blocks(pick, isa), case.problem()
        assert BACKEND.plan(config, problem, forward(problem)).workspace_bytes <= workspace_bytes(
            config, problem
        )


def test_what_grouped_does_not_take_is_rejected() -> None:
    for case, fields, word in (
        (layer((1, 130, 5, 5), 130, groups=2), {}, "64 channels"),
        (layer((1, 0, 5, 5), 4), {}, "input channels"),
        (layer((1, 8, 5, 5), 8, groups=8), {"parts": 2}, "parts"),
        (layer((1, 8, 5, 5), 8, groups=8), {"compute": "bf16"}, "bf16"),
    ):
        reason = BACKEND.rejects(grouped("portable", **fields), case.problem(), spec("portable"))
        assert reason is not None
        assert word in reason, reason
