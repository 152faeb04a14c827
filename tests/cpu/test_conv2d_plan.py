"""What Python can hand to the compiled module never crashes it: bad geometry raises before anything runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tests.cpu.conv2d_support import layer
from tests.cpu.support import LEVELS, spec
from tilewright import _C
from tilewright.errors import DeviceError
from tilewright.kernels.conv2d.cpu import BACKEND, CpuConfig

CONFIG = CpuConfig("direct", "portable", 4, 8, 16)


def fields(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "isa": "portable",
        "algorithm": "direct",
        "compute": "f32",
        "batch": 1,
        "in_channels": 4,
        "out_channels": 6,
        "groups": 1,
        "size": (5, 5),
        "out_size": (5, 5),
        "kernel": (3, 3),
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": (1, 1),
        "x_strides": (100, 25, 5, 1),
        "weight_strides": (36, 9, 3, 1),
        "y_strides": (150, 25, 5, 1),
        "weight_group_stride": 216,
        "flipped": False,
        "bias_stride": 1,
        "residual_strides": None,
        "dtype": "f32",
        "bias_dtype": None,
        "residual_dtype": None,
        "activation": "none",
        "keep_preact": False,
        "block_h": 5,
        "block_w": 5,
        "block_n": 16,
        "block_c": 1,
        "parts": 1,
        "frozen": False,
        "threads": 1,
    }
    return {**plain, **changes}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"isa": "sse9"}, "isa"),
        ({"algorithm": "fft"}, "algorithm"),
        ({"compute": "f64"}, "compute"),
        ({"compute": "bf16"}, "bf16"),
        ({"batch": -1}, "sizes"),
        ({"out_size": (5, 2**40)}, "sizes"),
        ({"groups": 0}, "groups"),
        ({"groups": 4}, "multiples of groups"),
        ({"kernel": (0, 3)}, "kernel"),
        ({"stride": (0, 1)}, "stride"),
        ({"dilation": (1, -1)}, "dilation"),
        ({"padding": (2**40, 0)}, "padding"),
        ({"x_strides": (100, 25, 5, -1)}, "x_strides"),
        ({"weight_strides": (-36, 9, 3, 1)}, "weight_strides"),
        ({"y_strides": (300, 50, 10, 2), "keep_preact": True}, "y_strides"),
        ({"x_strides": (100, 25, 5, 2**62)}, "64 bits"),
        ({"weight_group_stride": -1}, "weight_group_stride"),
        ({"bias_stride": -1}, "bias_stride"),
        ({"residual_dtype": "f32"}, "residual"),
        ({"residual_strides": (0, 0, 0, 0)}, "residual"),
        ({"dtype": "f64"}, "dtype"),
        ({"activation": "tanh"}, "activation"),
        ({"block_h": 0}, "block_h"),
        ({"block_n": 2**40}, "block_n"),
        ({"parts": 0}, "parts"),
        ({"threads": 0}, "threads"),
        ({"kernel": (33, 32)}, "1024"),
        ({"stride": (2**31, 2**31), "dilation": (2**31, 2**31), "kernel": (2**20, 2**20)}, "64 bits"),
        ({"kernel": (30, 30), "dilation": (2**12, 2**12), "x_strides": (0, 0, 0, 0)}, "scratch"),
    ],
)
def test_bad_fields_raise(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        _C.Conv2dPlan(**fields(**changes))


def test_null_pointers_raise() -> None:
    plan = _C.Conv2dPlan(**fields())
    for pointers in ((0, 1, 1, 0, 0, 0), (1, 0, 1, 0, 0, 0), (1, 1, 0, 0, 0, 0)):
        with pytest.raises(ValueError, match="null"):
            plan.run(*pointers)
    with pytest.raises(ValueError, match="bias"):
        plan.run(64, 64, 64, 0, 64, 0)
    with pytest.raises(ValueError, match="frozen"):
        plan.pack(64, 64)


def test_nothing_to_compute_touches_nothing() -> None:
    for changes in ({"batch": 0}, {"out_size": (0, 5)}, {"out_channels": 0}):
        _C.Conv2dPlan(**fields(**changes)).run(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"algorithm": "magic"}, "magic"),
        ({"isa": "sse9"}, "ISA"),
        ({"compute": "f8"}, "f8"),
        ({"pack": "never"}, "never"),
        ({"pack": "frozen"}, "stale"),
        ({"block_h": 0}, "block_h"),
        ({"block_w": 1 << 40}, "block_w"),
        ({"block_n": "wide"}, "block_n"),
        ({"block_n": True}, "block_n"),
        ({"parts": 0}, "parts"),
        ({"parts": 1 << 40}, "parts"),
    ],
)
def test_tampered_configs_are_rejected(changes: dict[str, Any], word: str) -> None:
    problem = layer((1, 4, 8, 8), 8).problem()
    assert BACKEND.rejects(CONFIG, problem, spec("portable")) is None
    reason = BACKEND.rejects(dataclasses.replace(CONFIG, **changes), problem, spec("portable"))
    assert reason is not None
    assert word in reason


def test_problems_that_the_kernels_do_not_take_are_rejected() -> None:
    case = layer((1, 4, 8, 8), 8, stride=(2, 2))
    problem = case.problem()
    device = spec("portable")
    for changes, word in (
        ({"device": "cuda"}, "GPU"),
        ({"dtype": torch.float64}, "f64"),
        ({"direction": "weight_gradient"}, "weight_gradient"),
        ({"kernel": (64, 64)}, "1024"),
        ({"size": (1 << 14, 1 << 14), "dilation": (1 << 12, 1 << 12)}, "scratch"),
    ):
        reason = BACKEND.rejects(CONFIG, dataclasses.replace(problem, **changes), device)
        assert reason is not None
        assert word in reason, reason
    assert "avx512" in str(BACKEND.rejects(dataclasses.replace(CONFIG, isa="avx512"), problem, device))


def test_bind_says_what_the_module_refuses() -> None:
    problem = layer((1, 4, 8, 8), 8).problem()
    with pytest.raises(DeviceError, match=r"conv2d: .*parts"):
        BACKEND.bind(dataclasses.replace(CONFIG, parts=0), problem)


@pytest.mark.parametrize("isa", LEVELS)
def test_a_packed_weight_serves_every_size_of_image(isa: str) -> None:
    from tilewright.kernels.frozen import FrozenOperand

    small, large = layer((1, 8, 6, 6), 40), layer((2, 8, 19, 21), 40, layout="nchw")
    large.weight = small.weight
    weight = FrozenOperand(small.weight)
    for case, block in ((small, 3), (large, 7)):
        config = CpuConfig("direct", isa, block, block, 32, pack="frozen")
        problem = case.problem(frozen_weight=True)
        y = BACKEND.bind(config, problem)(case.x, weight, case.bias, None)
        torch.testing.assert_close(
            y, torch.nn.functional.conv2d(case.x, case.weight, case.bias), rtol=1e-4, atol=1e-5
        )
    assert len(weight.forms) == 1
