"""What conv2d's Triton backend says it cannot run, and that what it lists it can; nothing here is compiled."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any, get_args

import pytest
import torch

from tilewright.kernels.conv2d.problem import Conv2dProblem, Direction
from tilewright.kernels.conv2d.triton import BACKEND
from tilewright.kernels.conv2d.triton.alignment import has_vectors, run, unit
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.cost import expected_seconds
from tilewright.kernels.conv2d.triton.geometry import box_of
from tilewright.kernels.conv2d.triton.limits import DIRECTIONS
from tilewright.kernels.conv2d.triton.proof import LAYERS, Layer
from tilewright.kernels.interface import DeviceSpec
from tilewright.tuner.device import builtin

GOOD = TritonConfig("implicit_gemm", 128, 128, 64, 8, 1, 8, 3)
BOXES = TritonConfig("descriptor", 128, 128, 64, 8, 1, 8, 3)
TAPS = TritonConfig("depthwise", 64, 32, 1, 1, 1, 4, 1)
A100, H100, B200, L4 = (builtin(name) for name in ("a100", "h100", "b200", "l4"))
WIDE = Layer(32, 256, 256, 28)
HALF = WIDE.problem("forward", torch.float16)
DEPTHWISE = Layer(32, 128, 128, 28, groups=128).problem("forward", torch.float16)


def why(config: Any, problem: Conv2dProblem = HALF, device: DeviceSpec = H100) -> str:
    return BACKEND.rejects(config, problem, device) or ""


def test_config_prints_and_survives_json() -> None:
    assert str(GOOD) == "implicit_gemm 128x128x64 g8 k1 w8 s3"
    assert str(replace(GOOD, layout="nhwc")) == "implicit_gemm 128x128x64 g8 k1 w8 s3 nhwc"
    assert TritonConfig(**json.loads(json.dumps(asdict(GOOD)))) == GOOD
    assert hash(GOOD) == hash(replace(GOOD))


@pytest.mark.parametrize(
    "field",
    ["algorithm", "block_m", "block_n", "block_k", "group_m", "split_k", "num_warps", "num_stages", "layout"],
)
@pytest.mark.parametrize(
    "value",
    [0, -1, 1 << 40, 3.0, 64.0, "64", None, True, float("nan"), [64], {}, torch.tensor(64), "nchw"],
    ids=repr,
)
def test_hostile_values(field: str, value: Any) -> None:
    for config, problem in ((GOOD, HALF), (TAPS, DEPTHWISE)):
        assert why(config, problem) == ""
        assert field in why(replace(config, **{field: value}), problem)


@pytest.mark.parametrize(
    "config", [None, 7, "implicit_gemm", asdict(GOOD), object()], ids=lambda x: type(x).__name__
)
def test_what_is_no_config(config: Any) -> None:
    assert "TritonConfig" in why(config)


@pytest.mark.parametrize(
    ("config", "device", "says"),
    [
        (replace(GOOD, num_stages=6), L4, "shared memory"),
        (replace(GOOD, block_n=256, block_k=128, num_stages=5), H100, "shared memory"),
        (replace(GOOD, block_m=256, block_n=256), H100, "registers"),
        (replace(GOOD, block_k=16), H100, "K step"),
        (replace(GOOD, split_k=257), H100, "split_k"),
        (GOOD, replace(A100, arch="sm_75"), "sm_80"),
        (BOXES, A100, "sm_90"),
        (replace(GOOD, layout="nhwc"), H100, "channels_last as they are"),
    ],
)
def test_device_limits(config: TritonConfig, device: DeviceSpec, says: str) -> None:
    assert says in why(config, HALF, device)


def test_each_algorithm_says_what_it_computes() -> None:
    for algorithm, directions in DIRECTIONS.items():
        config = replace(TAPS if algorithm == "depthwise" else GOOD, algorithm=algorithm)
        for direction in get_args(Direction):
            said = why(config, WIDE.problem(direction, torch.float16))
            assert ("only" in said and algorithm in said) == (direction not in directions)


def test_problem_limits() -> None:
    assert "f64" in why(GOOD, replace(HALF, dtype=torch.float64))
    assert "bias" in why(GOOD, replace(HALF, bias_dtype=torch.float64))
    assert "residual" in why(GOOD, replace(HALF, residual_dtype=torch.int8))
    assert "activation" in why(GOOD, replace(HALF, activation="tanh"))
    assert "32-bit" in why(GOOD, replace(HALF, batch=2**22))
    assert "32-bit" in why(GOOD, replace(HALF, dilation=(2**30, 1)))
    assert "classes" in why(
        replace(GOOD, algorithm="input_gradient"),
        replace(WIDE.problem("input_gradient", torch.float16), stride=(1000, 1000)),
    )
    assert "steps" in why(replace(GOOD, split_k=64))
    assert "few_channels" in why(replace(GOOD, algorithm="few_channels"))
    assert "groups" in why(TAPS)
    assert "weight's gradient" in why(replace(TAPS, split_k=2), DEPTHWISE)


def test_descriptor_limits() -> None:
    def layer(**sizes: Any) -> Conv2dProblem:
        return replace(WIDE, **sizes).problem("forward", torch.float16)

    assert why(BOXES) == ""
    assert why(BOXES, layer(stride=2)) == ""
    assert "stride divides" in why(BOXES, layer(stride=2, size=27))
    assert "channels_last" in why(BOXES, layer(channels_last=False))
    assert why(replace(BOXES, layout="nhwc"), layer(channels_last=False)) == ""
    assert "16 bytes" in why(BOXES, layer(channels=250))
    assert "16 bytes" in why(BOXES, replace(HALF, alignment=8))
    broadcast = replace(HALF, x_strides=(0, *HALF.x_strides[1:]))
    assert "not 0" in why(BOXES, broadcast)
    assert why(BOXES, replace(broadcast, batch=1)) == ""
    assert why(BOXES, layer(channels=200)) == ""
    assert "next pixel" in why(BOXES, layer(channels=200, stride=2))
    assert "next group" in why(BOXES, layer(channels=192, groups=2))
    gradient = replace(WIDE, stride=2).problem("input_gradient", torch.float16)
    assert "without a stride" in why(BOXES, gradient)
    assert "matrix units" in why(BOXES, WIDE.problem("forward", torch.float32))
    assert "tf32" in why(BOXES, WIDE.problem("input_gradient", torch.float32, "tf32"))


def test_cpu_needs_the_interpreter() -> None:
    problem = Conv2dProblem.from_tensors(torch.randn(1, 16, 4, 4), torch.randn(16, 16, 3, 3))
    cpu = replace(H100, kind="cpu", arch="avx2")
    assert "TRITON_INTERPRET" in why(GOOD, problem, cpu)
    assert list(BACKEND.configs(problem, cpu)) == []


@pytest.mark.parametrize("device", [A100, H100, B200, L4], ids=lambda device: device.arch)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_problem_has_configs(dtype: torch.dtype, device: DeviceSpec) -> None:
    layers = [*LAYERS, Layer(1, 1, 1, 1, kernel=1), Layer(2, 5, 7, 9, groups=1, channels_last=False)]
    layers += [Layer(2, 6, 4, 9, groups=2), Layer(1, 64, 0, 8), Layer(0, 16, 16, 8), Layer(3, 2048, 1000, 7)]
    for layer in layers:
        for direction in get_args(Direction):
            problem = layer.problem(direction, dtype)
            configs = list(BACKEND.configs(problem, device))
            assert 1 <= len(configs) <= 24, f"{problem.describe()}"
            assert len(set(configs)) == len(configs)
            seconds = [expected_seconds(config, problem, device) for config in configs]
            assert all(0 < each < 10 and math.isfinite(each) for each in seconds)
            assert seconds == sorted(seconds)
            assert all(BACKEND.rejects(config, problem, device) is None for config in configs)


def test_first_choices() -> None:
    """What the sizes call for comes first."""

    def first(layer: Layer, direction: Direction = "forward", device: DeviceSpec = H100) -> TritonConfig:
        return next(iter(BACKEND.configs(layer.problem(direction, torch.float16), device)))

    large = first(WIDE)
    assert large.algorithm == "descriptor"
    assert large.block_m * large.block_n >= 128 * 128
    assert first(WIDE, device=A100).algorithm == "implicit_gemm"
    assert first(Layer(64, 256, 256, 64, groups=256)).algorithm == "depthwise"
    assert first(Layer(32, 3, 64, 224, kernel=7, stride=2)).algorithm == "few_channels"
    assert first(Layer(4, 1024, 128, 7), device=A100).split_k > 1  # a small image and a long sum
    assert first(WIDE, "weight_gradient").split_k > 1
    assert first(replace(WIDE, channels_last=False)).layout == "nhwc"


def test_boxes() -> None:
    """They cover the image with the fewest pixels, and among such are wide."""
    assert box_of(128, (32, 64, 56, 56)) == (1, 16, 8) or math.prod(box_of(128, (32, 64, 56, 56))) == 128
    for shape in ((32, 64, 56, 56), (1, 8, 7, 7), (128, 64, 14, 14), (1, 8, 1, 1000), (5, 1, 3, 300)):
        for pixels in (16, 64, 128, 256):
            box = box_of(pixels, shape)
            assert math.prod(box) == pixels
            covered = math.prod(
                -(-size // step) * step for size, step in zip((shape[0], *shape[2:]), box, strict=True)
            )
            flat = -(-shape[3] // pixels) * pixels * shape[0] * shape[2]
            assert covered <= flat
    assert box_of(128, (128, 64, 14, 14)) == (32, 2, 2)
    assert box_of(64, (1, 64, 8, 8)) == (1, 8, 8)


def test_alignment() -> None:
    half, single = torch.float16, torch.float32
    assert unit((64, 128, 256), half, 16) == 1  # multiples of 16: Triton sees it by itself
    assert unit((24, 40 * 24), half, 16) == 8
    assert unit((20, 400), single, 16) == 4
    assert unit((20, 400), half, 16) == 1
    assert unit((24, 40 * 24), half, 8) == 1
    assert has_vectors((24,), half, 16)
    assert not has_vectors((24,), half, 8)
    assert not has_vectors((20,), half, 16)
    assert run(28 * 28, (28 * 28 * 64,), half, 16) == 8
    assert run(14 * 14, (14 * 14,), half, 16) == 4
    assert run(7 * 7, (49,), half, 16) == 1
    assert run(28 * 28, (28 * 28,), single, 4) == 1


def test_asking_does_not_import_triton() -> None:
    code = (
        "import sys, torch; from tilewright.kernels.conv2d.triton import BACKEND\n"
        "from tilewright.kernels.conv2d.problem import Conv2dProblem\n"
        "from tilewright.tuner.device import builtin\n"
        "p = Conv2dProblem.from_tensors(torch.empty(2, 64, 8, 8), torch.empty(64, 64, 3, 3))\n"
        "assert list(BACKEND.configs(p, builtin('h100'))); BACKEND.absent('cpu')\n"
        "assert 'triton' not in sys.modules\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
