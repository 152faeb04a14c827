"""What a tilewright call costs over the torch operator: on a product so small that nothing else counts.

Budgets over the torch operator: 5 µs without gradients, 30 µs with. One group per mode; ``torch`` and
``tilewright`` are its rows, and ``tilewright aten`` runs the very kernel of the ``torch`` row.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import tilewright

MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "with gradients": torch.enable_grad,
}
SIZE = 8


CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torch": torch.mm,
    "tilewright": tilewright.matmul,
    "tilewright aten": tilewright.matmul,
}


def _scope(name: str) -> AbstractContextManager[Any]:
    return tilewright.options(backend="aten") if name == "tilewright aten" else nullcontext()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CALLS)
def test_call(benchmark: Any, name: str, mode: str) -> None:
    call = CALLS[name]
    benchmark.group = f"matmul of {SIZE}³, {mode}"
    benchmark.extra_info["budget_us"] = 30 if mode == "with gradients" else 5
    requires_grad = mode == "with gradients"
    with _scope(name), MODES[mode]():
        a, b = (torch.randn(SIZE, SIZE, requires_grad=requires_grad) for _ in range(2))
        for _ in range(200):  # the first call chooses a kernel, which would set the number of rounds
            call(a, b)
        benchmark(call, a, b)


@pytest.mark.parametrize("name", CALLS)
def test_forward_and_backward(benchmark: Any, name: str) -> None:
    call = CALLS[name]
    benchmark.group = f"matmul of {SIZE}³, forward and backward"
    a, b = (torch.randn(SIZE, SIZE, requires_grad=True) for _ in range(2))
    ones = torch.ones(SIZE, SIZE)

    def step() -> None:
        call(a, b).backward(ones)

    with _scope(name):
        benchmark(step)


def _torch_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.relu(torch.nn.functional.linear(x, weight, bias))


def _our_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return tilewright.linear(x, weight, bias, activation="relu")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "call"), [("torch", _torch_layer), ("tilewright", _our_layer)])
def test_layer(benchmark: Any, name: str, call: Callable[..., Tensor], mode: str) -> None:
    """A fused layer saves torch one operator, which pays part of the overhead."""
    benchmark.group = f"linear + bias + relu, {mode}"
    with MODES[mode]():
        x, weight = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE, requires_grad=mode == "with gradients")
        benchmark(call, x, weight, torch.randn(SIZE))
