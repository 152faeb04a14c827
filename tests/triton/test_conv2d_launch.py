"""Launching conv2d's kernels through Triton's own JIT, up to the driver, which here is a stand-in that records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.triton.recorder import Recorder, assert_proven
from torch import Tensor

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import BACKEND
from tilewright.kernels.conv2d.triton.config import TritonConfig

pytest.importorskip("triton", reason="Triton is not installed")

GEMM = TritonConfig("implicit_gemm", 16, 16, 32, 2, 1, 4, 2)


def image(*shape: int, channels_last: bool = False) -> Tensor:
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.randn(shape).half().contiguous(memory_format=order)


def on_gpu(problem: Conv2dProblem, alignment: int = 16) -> Conv2dProblem:
    return replace(problem, device="cuda", alignment=alignment)


WINDOW: dict[str, Any] = {"padding": (1, 1, 1, 1), "stride": (2, 2)}
# name -> (config, x, weight, window)
CASES: dict[str, tuple[TritonConfig, Tensor, Tensor, dict[str, Any]]] = {
    "multiples of 16": (GEMM, image(1, 32, 8, 8, channels_last=True), image(16, 32, 3, 3), WINDOW),
    "vectors": (
        *(GEMM, image(1, 24, 6, 6, channels_last=True), image(40, 24, 3, 3, channels_last=True)),
        {"padding": (1, 1, 1, 1)},
    ),
    "pixels": (GEMM, image(1, 24, 8, 8), image(40, 24, 3, 3), {"padding": (1, 1, 1, 1)}),
    "odd": (GEMM, image(1, 3, 5, 7), image(5, 3, 2, 3), {"padding": (0, 1, 2, 0), "dilation": (2, 1)}),
    "ones": (GEMM, image(1, 32, 1, 1), image(1, 32, 1, 1), {}),
    "groups": (replace(GEMM, algorithm="few_channels"), image(2, 8, 5, 5), image(4, 2, 3, 3), {"groups": 4}),
    "boxes": (
        TritonConfig("descriptor", 32, 32, 32, 2, 1, 4, 2),
        image(2, 64, 8, 8, channels_last=True),
        image(32, 64, 3, 3, channels_last=True),
        WINDOW,
    ),
    "depthwise": (
        TritonConfig("depthwise", 16, 8, 1, 1, 1, 1, 1),
        image(1, 24, 6, 6, channels_last=True),
        image(24, 1, 3, 3),
        {"groups": 24},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_jit_compiles_what_was_proven(case: str, recorder: Recorder) -> None:
    config, x, weight, window = CASES[case]
    bias = torch.randn(weight.shape[0])
    plain = Conv2dProblem.from_tensors(x, weight, **window)
    residual = image(*plain.y_shape)
    problem = on_gpu(
        Conv2dProblem.from_tensors(x, weight, bias, residual, activation="silu", keep_preact=True, **window)
    )
    if case == "vectors":
        config = replace(config, split_k=2)
    BACKEND.bind(config, problem)(x, weight, bias, residual)
    assert_proven(recorder, BACKEND.ahead_of_time(config, problem))


@pytest.mark.parametrize("split_k", [1, 2])
@pytest.mark.parametrize("direction", ["input_gradient", "weight_gradient"])
@pytest.mark.parametrize("case", ["multiples of 16", "pixels", "odd", "depthwise"])
def test_jit_compiles_the_gradients_that_were_proven(
    case: str, direction: str, split_k: int, recorder: Recorder
) -> None:
    config, x, weight, window = CASES[case]
    dy = image(*Conv2dProblem.from_tensors(x, weight, **window).y_shape)
    if case == "depthwise":
        config = replace(config, split_k=split_k if direction == "weight_gradient" else 1)
    else:
        config = replace(GEMM, algorithm=direction, split_k=split_k)
    if direction == "input_gradient":
        problem, given = Conv2dProblem.from_tensors(x.shape, weight, grad=dy, **window), (dy, weight)
    else:
        problem, given = Conv2dProblem.from_tensors(x, weight.shape, grad=dy, **window), (dy, x)
    BACKEND.bind(config, on_gpu(problem))(*given)
    assert_proven(recorder, BACKEND.ahead_of_time(config, on_gpu(problem)))


@pytest.mark.parametrize("case", ["multiples of 16", "boxes"])
def test_second_launch_goes_around_the_look_up(case: str, recorder: Recorder) -> None:
    config, x, weight, window = CASES[case]
    problem = on_gpu(Conv2dProblem.from_tensors(x, weight, **window))
    launch = BACKEND.bind(config, problem)
    kept = [launch(x, weight) for _ in range(3)]
    assert recorder.jit_calls == 1
    assert len(recorder.launches) == 3

    def plain(arguments: tuple[Any, ...]) -> list[Any]:
        """The output differs from call to call; all else must not."""
        given = {id(tensor): i for i, tensor in enumerate((x, weight))}
        bases = [getattr(value, "base", value) for value in arguments]
        boxes = [
            (value.shape, value.strides, value.block_shape) if hasattr(value, "block_shape") else None
            for value in arguments
        ]
        names = [given.get(id(base), "output") if isinstance(base, Tensor) else base for base in bases]
        return [*names, *boxes]

    first, *later = [(source, grid, plain(arguments)) for source, grid, arguments in recorder.launches]
    assert all(launched == first for launched in later)
    assert recorder.launches[-1][2][2] is kept[-1]


def test_copies_are_what_is_launched_on(recorder: Recorder) -> None:
    x, weight = image(1, 32, 8, 8), image(16, 32, 3, 3)
    problem = on_gpu(Conv2dProblem.from_tensors(x, weight))
    config = replace(GEMM, layout="nhwc")
    y = BACKEND.bind(config, problem)(x, weight)
    assert y.stride() == problem.y_strides
    assert_proven(recorder, BACKEND.ahead_of_time(config, problem))
    for given, original in zip(recorder.launches[0][2][:2], (x, weight), strict=True):
        assert given.is_contiguous(memory_format=torch.channels_last)
        assert given is not original
        assert torch.equal(given, original)


def test_unaligned_pointers_always_ask_the_jit(recorder: Recorder) -> None:
    """Which of them is aligned may differ between calls of one problem, and with it the binary."""
    storage = torch.randn(16 * 64 + 8).half()
    weight = image(16, 16, 3, 3)
    aligned, shifted = (storage[i : 16 * 64 + i].view(1, 16, 8, 8) for i in (0, 1))
    problem = on_gpu(Conv2dProblem.from_tensors(shifted, weight), alignment=2)
    launch = BACKEND.bind(GEMM, problem)
    for x in (shifted, aligned, shifted):
        launch(x, weight)
    assert recorder.jit_calls == 3
    attributes = [source.attrs[0,] for source, _, _ in recorder.launches]
    assert attributes == [[], [["tt.divisibility", 16]], []]
