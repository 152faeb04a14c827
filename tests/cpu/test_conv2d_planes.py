"""Convolution plane by plane at every ISA level, against float64."""

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


def planes(isa: str, **fields: int | str) -> CpuConfig:
    sizes = {"block_h": 9, "block_w": 40, "block_n": 4, **fields}
    return CpuConfig("planes", isa, **sizes)  # type: ignore[arg-type]


def any_blocks(pick: random.Random, isa: str, pack: str = "shared") -> CpuConfig:
    return planes(
        isa,
        block_h=pick.randint(1, 16),
        block_w=pick.randint(1, 40),
        block_n=pick.choice((1, 3, 8, 100)),
        pack=pack,
    )


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_geometry(isa: str, dtype: torch.dtype) -> None:
    pick = random.Random(f"{isa} {dtype}")
    for _ in range(60):
        case = random_case(pick, dtype, small_groups)
        case.parameters["channels_last"] = False
        case.check(any_blocks(pick, isa, pick.choice(("shared", "frozen"))))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_size_is_cut_into_tiles(isa: str, dtype: torch.dtype, kernel: int, stride: int) -> None:
    pad = kernel // 2
    for height, width in ((1, 1), (2, 3), (3, 7), (5, 14), (7, 16), (8, 17), (13, 29), (16, 33), (15, 56)):
        case = layer(
            (1, 3, height, width),
            3,
            (kernel, kernel),
            groups=3,
            dtype=dtype,
            layout="nchw",
            stride=(stride, stride),
            padding=(pad, pad, pad, pad),
            activation="relu",
        )
        case.check(planes(isa, block_h=64, block_w=64))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(("inputs", "outputs", "groups"), SMALL_GROUPS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "strided"])
def test_groups_of_any_size(isa: str, inputs: int, outputs: int, groups: int, layout: str) -> None:
    for stride, pack in ((1, "shared"), (2, "frozen")):
        case = layer(
            (2, inputs * groups, 7, 10),
            outputs * groups,
            groups=groups,
            layout=layout,
            stride=(stride, stride),
            padding=(1, 1, 1, 1),
            activation="relu",
            channels_last=False,
        )
        case.check(planes(isa, pack=pack))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(
    "padding", [(7, 5, 6, 9), (0, 3, 2, 0), (0, 0, 0, 5), (-1, 0, -2, 1), (0, 0, 40, 40)]
)
def test_padding_of_any_width(isa: str, padding: tuple[int, int, int, int]) -> None:
    for stride in (1, 2, 3):
        case = layer((1, 5, 5, 6), 5, groups=5, layout="nchw", padding=padding, stride=(stride, stride))
        if min(case.problem().y_shape) > 0:
            case.check(planes(isa))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_x_is_not_read_beyond_its_ends(isa: str, dtype: torch.dtype) -> None:
    # The vectors at the ends of x reach beyond it. What lies there must not be summed, whatever it is.
    for width in (5, 16, 21):
        case = layer((1, 4, 6, width), 4, groups=4, dtype=dtype, layout="nchw", padding=(1, 1, 1, 1))
        guarded = torch.full((case.x.numel() + 128,), float("nan"), dtype=dtype)
        guarded[64:-64] = case.x.flatten()
        case.x = guarded[64:-64].view(case.x.shape)
        case.check(planes(isa))


@pytest.mark.parametrize("isa", LEVELS)
def test_biases_of_any_dtype_and_stride(isa: str) -> None:
    for dtype in DTYPES:
        case = layer((1, 6, 6, 6), 6, groups=6, dtype=dtype, layout="nchw", activation="relu")
        for bias in (torch.randn(6), torch.randn(6).bfloat16(), torch.randn(6).half(), torch.randn(12)[::2]):
            case.bias = bias
            case.check(planes(isa))


@pytest.mark.parametrize("isa", LEVELS)
def test_blocks_and_threads_decide_no_bit(isa: str) -> None:
    for inputs, groups in ((1, 37), (4, 9)):
        case = layer(
            (2, inputs * groups, 11, 23),
            inputs * groups,
            groups=groups,
            layout="nchw",
            padding=(1, 1, 1, 1),
            activation="gelu",
        )
        expected = case.run(planes(isa, block_h=64, block_w=64, block_n=256), threads=1)
        assert isinstance(expected, torch.Tensor)
        for block_h, block_w, block_n, threads in (
            (1, 23, 32, 1),
            (3, 5, 16, 2),
            (11, 8, 1, 4),
            (2, 1, 64, 3),
        ):
            config = planes(isa, block_h=block_h, block_w=block_w, block_n=block_n, pack="frozen")
            found = case.run(config, threads=threads)
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found, expected), config


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_input_gradient(isa: str, dtype: torch.dtype) -> None:
    pick = random.Random(3)
    for _ in range(20):
        case = random_case(pick, dtype, small_groups)
        case.parameters["stride"] = (pick.choice((1, 2)), 1)
        parameters = {name: case.parameters[name] for name in ("stride", "padding", "dilation", "groups")}
        shape = case.problem().y_shape
        if min(shape) <= 0:
            continue
        grad = torch.randn(shape).to(dtype)
        problem = Conv2dProblem.from_tensors(
            case.x.shape, case.weight, grad=grad, threads=2, channels_last=False, **parameters
        )
        config = any_blocks(pick, isa)
        assert BACKEND.rejects(config, problem, spec(isa)) is None
        dx = BACKEND.bind(config, problem)(grad, case.weight)
        verdict = oracle(problem, (grad, case.weight))((dx,))
        assert verdict is None, f"{config} on {problem.describe()}: {verdict}"


@pytest.mark.parametrize("isa", LEVELS)
def test_every_listed_config_is_right(isa: str) -> None:
    for case in (
        layer((1, 48, 14, 14), 48, groups=48, padding=(1, 1, 1, 1), layout="nchw", activation="relu"),
        layer((1, 32, 15, 15), 32, groups=32, stride=(2, 2), padding=(1, 1, 1, 1), layout="nchw"),
    ):
        configs = [
            config for config in BACKEND.configs(case.problem(), spec(isa)) if config.algorithm == "planes"
        ]
        assert configs
        for config in configs[:12]:
            case.check(config)


@pytest.mark.parametrize("isa", LEVELS)
def test_python_knows_how_much_scratch_memory_a_launch_takes(isa: str) -> None:
    pick = random.Random(1)
    for _ in range(60):
        case = random_case(pick, pick.choice(DTYPES), small_groups)
        case.parameters["channels_last"] = False
        config, problem = any_blocks(pick, isa), case.problem()
        assert BACKEND.plan(config, problem, forward(problem)).workspace_bytes <= workspace_bytes(
            config, problem
        )


def test_what_planes_does_not_take_is_rejected() -> None:
    for case, fields, word in (
        (layer((1, 8, 5, 5), 8, groups=8, layout="nhwc"), {}, "contiguous"),
        (layer((1, 0, 5, 5), 4, layout="nchw"), {}, "input channels"),
        (layer((1, 8, 5, 5), 8, groups=8, layout="nchw"), {"parts": 2}, "parts"),
        (layer((1, 8, 5, 5), 8, groups=8, layout="nchw"), {"compute": "bf16"}, "bf16"),
    ):
        reason = BACKEND.rejects(planes("portable", **fields), case.problem(), spec("portable"))
        assert reason is not None
        assert word in reason, reason
