"""Graphs drawn at random: compiled, they give what eager gives, forward and backward, whatever was fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import tilewright
from tests.compiler.support import assert_as_good, compiled

F = torch.nn.functional

_ROWS, _WIDTH, _CHANNELS, _SIZE = 4, 6, 4, 5

_STEPS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "linear": (1, lambda p, x: F.linear(x, p["square"], p["bias"])),
    "product": (2, lambda p, x, y: x @ p["square"] + y),
    "between": (2, lambda p, x, y: torch.softmax(x @ y.transpose(-1, -2), -1) @ y),
    "relu": (1, lambda p, x: F.relu(x)),
    "gelu": (1, lambda p, x: F.gelu(x)),
    "silu": (1, lambda p, x: F.silu(x)),
    "add": (2, lambda p, x, y: x + y),
    "add a row": (1, lambda p, x: x + p["bias"]),
    "in place": (1, lambda p, x: F.relu_(x * 1.5)),
    "reshaped": (1, lambda p, x: F.gelu(x.reshape(-1, 3)).reshape(x.shape)),
    "transposed": (1, lambda p, x: (x.transpose(0, 1) * 2).transpose(0, 1)),
    "scaled": (2, lambda p, x, y: torch.add(x, y, alpha=0.5)),
}

_IMAGE_STEPS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "conv": (1, lambda p, x: F.conv2d(x, p["filters"], p["channels"], padding=1)),
    "pointwise": (1, lambda p, x: F.conv2d(x, p["filters"][:, :, 1:2, 1:2])),
    "depthwise": (1, lambda p, x: F.conv2d(x, p["filters"][:, :1], padding="same", groups=_CHANNELS)),
    "grouped": (1, lambda p, x: F.conv2d(x, p["filters"][:, :2], padding=2, dilation=2, groups=2)),
    "norm": (1, lambda p, x: F.batch_norm(x, p["channels"], p["variances"], p["variances"], p["channels"])),
    "norm of conv": (
        1,
        lambda p, x: F.batch_norm(
            F.conv2d(x, p["filters"], padding=1), p["channels"], p["variances"], None, p["channels"]
        ),
    ),
    "pool": (1, lambda p, x: F.max_pool2d(x, 3, 1, 1)),
    "relu": (1, lambda p, x: F.relu(x)),
    "silu in place": (1, lambda p, x: F.silu(x + 0.5, inplace=True)),
    "add": (2, lambda p, x, y: x + y),
    "add a channel": (1, lambda p, x: x + p["channels"].view(-1, 1, 1)),
    "rows": (1, lambda p, x: F.linear(x.permute(0, 2, 3, 1), p["mix"]).permute(0, 3, 1, 2)),
}


def _parameters(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype) / 2

    return {
        "square": random(_WIDTH, _WIDTH),
        "bias": random(_WIDTH),
        "filters": random(_CHANNELS, _CHANNELS, 3, 3) / 2,
        "channels": random(_CHANNELS),
        "variances": random(_CHANNELS).abs() + 0.5,
        "mix": random(_CHANNELS, _CHANNELS),
    }


def _program(steps: Any, table: Any, returned: list[int]) -> Callable[..., tuple[Tensor, ...]]:
    def run(parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for name, first, second in steps:
            count, step = table[name]
            picked = [values[first % len(values)], values[second % len(values)]][:count]
            values.append(step(parameters, *picked))
        return tuple(values[index % len(values)] * 1.0 for index in [*returned, len(values) - 1])

    return run


def _programs(table: Any) -> Any:
    step = st.tuples(st.sampled_from(sorted(table)), st.integers(0, 7), st.integers(0, 7))
    # The value of the last step is the likeliest operand: chains are what fusion is about.
    latest = st.tuples(st.sampled_from(sorted(table)), st.just(-1), st.integers(0, 7))
    steps = st.lists(st.one_of(latest, latest, step), min_size=2, max_size=7)
    return st.tuples(steps, st.lists(st.integers(0, 7), max_size=2))


_MANY = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def _input(table: Any) -> Tensor:
    shape = (2, _ROWS, _WIDTH) if table is _STEPS else (2, _CHANNELS, _SIZE, _SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(9)) / 2


def _wide(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in parameters.items()}


def _infer(program: Any, table: Any, **options: Any) -> None:
    run = _program(*program[:1], table, program[1])
    torch._dynamo.reset()
    parameters, x = _parameters(), _input(table)
    with torch.no_grad():
        found = compiled(run, **options)(parameters, x)
        assert_as_good(found, run(parameters, x), run(_wide(parameters), x.double()))


@pytest.mark.parametrize("table", [_STEPS, _IMAGE_STEPS], ids=["rows", "images"])
def test_inference(table: Any) -> None:
    @_MANY
    @given(_programs(table))
    def check(program: Any) -> None:
        _infer(program, table)

    check()
    assert sum(len(graph.fused) for graph in tilewright.compiler.report().graphs) > 5


@pytest.mark.parametrize("table", [_STEPS, _IMAGE_STEPS], ids=["rows", "images"])
def test_training(table: Any) -> None:
    def gradients(run: Any, parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
        leaves = {
            name: tensor.clone().requires_grad_(name != "variances") for name, tensor in parameters.items()
        }
        if table is _IMAGE_STEPS:
            leaves["channels"] = parameters["channels"].clone()  # a statistic too, which has no gradient
        x = x.clone().requires_grad_()
        outputs = run(leaves, x)
        sum(output.square().mean() for output in outputs).backward()
        given = [x, *leaves.values()]
        # Of what a program does not use torch gives no gradient; those that there are must agree.
        return *(output.detach() for output in outputs), *(
            torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in given
        )

    @_MANY
    @given(_programs(table))
    def check(program: Any) -> None:
        run = _program(*program[:1], table, program[1])
        torch._dynamo.reset()
        parameters, x = _parameters(), _input(table)
        assert_as_good(
            gradients(compiled(run), parameters, x),
            gradients(run, parameters, x),
            gradients(run, _wide(parameters), x.double()),
        )

    check()
    kinds = {graph.kind for graph in tilewright.compiler.report().graphs if graph.fused}
    assert kinds == {"forward", "backward"}


class _Module(torch.nn.Module):
    """A program whose parameters are a module's, and so frozen."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run
        for name, tensor in _parameters().items():
            self.register_parameter(name, torch.nn.Parameter(tensor))

    def forward(self, x: Tensor) -> Any:
        return self.run(dict(self.named_parameters()), x)


@pytest.mark.parametrize("table", [_STEPS, _IMAGE_STEPS], ids=["rows", "images"])
def test_frozen(table: Any) -> None:
    @_MANY
    @given(_programs(table))
    def check(program: Any) -> None:
        run = _program(*program[:1], table, program[1])
        torch._dynamo.reset()
        module, x = _Module(run), _input(table)
        fast = compiled(module, freeze=True)
        with torch.no_grad():
            for _ in range(2):
                exact = run({name: tensor.double() for name, tensor in module.named_parameters()}, x.double())
                assert_as_good(fast(x), module(x), exact)
                for parameter in module.parameters():
                    parameter.mul_(0.75)

    check()
    assert any("frozen" in each.operation for each in tilewright.compiler.report().fused)
