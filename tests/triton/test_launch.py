"""Launching through Triton's own JIT, up to the driver, which here is a stand-in that records.

Proves without a GPU that the JIT compiles what was proven ahead of time, and that the second launch, which
goes around the JIT's look-up, hands the driver the same arguments as the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.triton.recorder import Recorder, assert_proven

from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.triton import BACKEND
from tilewright.kernels.matmul.triton.config import TritonConfig

pytest.importorskip("triton", reason="Triton is not installed")

CONFIG = TritonConfig("tiled", 16, 32, 32, 2, 1, 4, 2)


def on_gpu(problem: MatmulProblem, alignment: int = 16) -> MatmulProblem:
    return replace(problem, device="cuda", alignment=alignment)


def halves(*shape: int) -> torch.Tensor:
    return torch.randn(shape).half()


CASES = {
    "multiples of 16": (halves(64, 64), halves(64, 96), torch.randn(96), torch.randn(64, 96)),
    "vectors": (halves(24, 40), halves(40, 72), None, None),
    "odd": (halves(17, 21), halves(21, 35), None, torch.randn(35)),
    "ones": (halves(1, 64), halves(64, 1), None, None),
    "batch": (halves(2, 1, 16, 32), halves(3, 32, 32), None, None),
    "far apart": (
        torch.empty(1, dtype=torch.float16).expand(4, 32),
        torch.empty(2**33, dtype=torch.float16).as_strided((32, 32), (2**27, 1)),
        None,
        None,
    ),
}


@pytest.mark.parametrize("split_k", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_jit_compiles_what_was_proven(case: str, split_k: int, recorder: Recorder) -> None:
    a, b, bias, residual = CASES[case]
    problem = on_gpu(MatmulProblem.from_tensors(a, b, bias, residual, activation="silu", keep_preact=True))
    config = replace(CONFIG, split_k=min(split_k, -(-problem.k // CONFIG.block_k)))
    BACKEND.bind(config, problem)(a, b, bias, residual)
    assert_proven(recorder, BACKEND.ahead_of_time(config, problem))


@pytest.mark.parametrize("split_k", [1, 2])
def test_second_launch_goes_around_the_look_up(split_k: int, recorder: Recorder) -> None:
    a, b, bias, residual = CASES["multiples of 16"]
    problem = on_gpu(MatmulProblem.from_tensors(a, b, bias, residual))
    launch = BACKEND.bind(replace(CONFIG, split_k=split_k), problem)
    kept = [launch(a, b, bias, residual) for _ in range(3)]
    assert recorder.jit_calls == split_k
    assert len(recorder.launches) == 3 * split_k

    def plain(arguments: tuple[Any, ...]) -> list[Any]:
        """Outputs and workspace differ from call to call; all else must not."""
        given = {id(tensor): i for i, tensor in enumerate((a, b, bias, residual))}
        return [
            given.get(id(value), "output") if isinstance(value, torch.Tensor) else value
            for value in arguments
        ]

    first = [(source, grid, plain(arguments)) for source, grid, arguments in recorder.launches[:split_k]]
    for later in range(split_k, 3 * split_k):
        source, grid, arguments = recorder.launches[later]
        assert (source, grid, plain(arguments)) == first[later % split_k]
    assert recorder.launches[-1][2][2 if split_k == 1 else 1] is kept[-1]


def test_unaligned_pointers_always_ask_the_jit(recorder: Recorder) -> None:
    """Which of them is aligned may differ between calls of one problem, and with it the binary."""
    storage = torch.randn(64 * 64 + 8).half()
    b = halves(64, 64)
    aligned, shifted = storage[: 64 * 64].view(64, 64), storage[1 : 64 * 64 + 1].view(64, 64)
    problem = on_gpu(MatmulProblem.from_tensors(shifted, b), alignment=2)
    launch = BACKEND.bind(CONFIG, problem)
    for a in (shifted, aligned, shifted):
        launch(a, b, None, None)
    assert recorder.jit_calls == 3
    attributes = [source.attrs[0,] for source, _, _ in recorder.launches]
    assert attributes == [[], [["tt.divisibility", 16]], []]


def test_each_slice_of_a_deep_batch_is_a_launch(recorder: Recorder) -> None:
    a, b = torch.randn(2, 1, 2, 1, 4, 8), torch.randn(1, 3, 1, 3, 8, 4)
    problem = on_gpu(MatmulProblem.from_tensors(a, b))
    assert len(problem.batch) == 4
    y = BACKEND.bind(CONFIG, problem)(a, b, None, None)
    assert y.shape == (2, 3, 2, 3, 4, 4)
    offsets = [
        tuple((arguments[i].data_ptr() - base.data_ptr()) // 4 for i, base in enumerate((a, b, y)))
        for _, _, arguments in recorder.launches
    ]
    assert offsets == [(i * 64, j * 96, (i * 3 + j) * 96) for i in range(2) for j in range(3)]
