"""conv2d against torch's own, over arguments, layouts and choices; what runs it, and what says so."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import tilewright
from tilewright import dispatch
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.epilogue import activate
from tilewright.ops.conv2d_kernels import conv2d_problem
from tilewright.settings import Options
from tilewright.tuner import Choice

F = torch.nn.functional
LAST = torch.channels_last


@pytest.mark.parametrize(
    "walk",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": [2, 1], "padding": [0, 2], "dilation": [1, 2]},
        {"stride": (3,), "padding": (1,), "dilation": (2,)},
        {"padding": "same"},
        {"padding": "valid", "stride": 2},
        {"padding": "same", "dilation": (2, 3)},
        {"stride": np.int64(2), "padding": torch.Size([1, 0])},
        {"groups": 2},
        {"groups": 4, "padding": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_takes_what_torch_takes(walk: dict[str, Any], kernel: tuple[int, int], batched: bool) -> None:
    x = torch.randn(3, 4, 9, 8) if batched else torch.randn(4, 9, 8)
    weight, bias = torch.randn(8, 4 // walk.get("groups", 1), *kernel), torch.randn(8)
    theirs = F.conv2d(x, weight, bias, **{name: _plain(value) for name, value in walk.items()})
    residual = torch.randn(theirs.shape)
    torch.testing.assert_close(tilewright.conv2d(x, weight, bias, **walk), theirs)
    fused = tilewright.conv2d_relu(x, weight, bias, residual=residual, **walk)
    torch.testing.assert_close(fused, torch.relu(theirs + residual))
    assert fused.is_contiguous()


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, np.integer) else value


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_residuals_broadcast(batched: bool, kernel: int) -> None:
    x = torch.randn(2, 3, 5, 6) if batched else torch.randn(3, 5, 6)
    weight = torch.randn(4, 3, kernel, kernel)
    for images in (x, x.contiguous(memory_format=LAST)) if batched else (x,):
        plain = F.conv2d(images, weight)
        shape = plain.shape
        for small in (shape, shape[1:], shape[-1:], (4, 1, 1), (1, *shape[-2:]), (1,), ()):
            residual = torch.randn(small)
            y = tilewright.conv2d(images, weight, residual=residual, activation="silu")
            torch.testing.assert_close(y, F.silu(plain + residual))


def test_empty_batches() -> None:
    for kernel in (1, 3):
        x, weight = (
            torch.randn(0, 3, 6, 6, requires_grad=True),
            torch.randn(4, 3, kernel, kernel, requires_grad=True),
        )
        y = tilewright.conv2d(x, weight, torch.randn(4), activation="gelu")
        assert y.shape == F.conv2d(x, weight).shape
        y.sum().backward()
        assert x.grad is not None
        assert weight.grad is not None
        assert x.grad.shape == x.shape
        assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.fixture
def posed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which kernels are asked for, in order."""
    seen: list[str] = []
    choose = dispatch.choose

    def watched(operation: str, problem: Any, options: Options) -> Choice:
        seen.append(operation if operation == "matmul" else problem.direction)
        return choose(operation, problem, options)

    monkeypatch.setattr(dispatch, "choose", watched)
    dispatch.forget()
    return seen


# y, dw, dx: autograd asks for the gradient of x first.
PRODUCTS: dict[str, tuple[tuple[int, ...], bool, dict[str, Any], list[str]]] = {
    "channels innermost": ((2, 5, 4, 3), True, {"bias": True}, ["matmul"] * 3),
    "pixels innermost": ((2, 5, 4, 3), False, {}, ["matmul", "matmul", "weight_gradient"]),
    "pixels innermost and bias": (
        (2, 5, 4, 3),
        False,
        {"bias": True},
        ["forward", "matmul", "weight_gradient"],
    ),
    "single pixels": ((6, 5, 1, 1), False, {"bias": True}, ["matmul"] * 3),
    "strided": ((2, 5, 4, 3), True, {"stride": 2}, ["forward", "input_gradient", "weight_gradient"]),
    "padded": ((2, 5, 4, 3), True, {"padding": 1}, ["forward", "input_gradient", "weight_gradient"]),
    "groups": ((2, 6, 4, 3), True, {"groups": 3}, ["forward", "input_gradient", "weight_gradient"]),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("residual", ["", "whole", "per channel", "per image"])
def test_pointwise_convolutions_are_products(
    posed: list[str], name: str, activation: str, residual: str
) -> None:
    shape, last, walk, expected = PRODUCTS[name]
    walk = dict(walk)
    x = torch.randn(shape).contiguous(memory_format=LAST) if last else torch.randn(shape)
    weight = torch.randn(6, shape[1] // walk.get("groups", 1), 1, 1) / 2
    bias = torch.randn(6) if walk.pop("bias", False) else None
    plain = F.conv2d(x, weight, bias, **walk)
    sizes = {"whole": plain.shape, "per channel": (6, 1, 1), "per image": (shape[0], 1, 1, 1)}
    addend = torch.randn(sizes[residual]) if residual else None
    leaves = [t if t is None else t.clone().requires_grad_() for t in (x, weight, bias, addend)]
    ours, filters, offsets, added = leaves
    assert ours is not None
    assert filters is not None
    y = tilewright.conv2d(ours, filters, offsets, residual=added, activation=activation, **walk)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    assert posed == expected
    copies = [t if t is None else t.detach().clone().requires_grad_() for t in leaves]
    z = F.conv2d(copies[0], copies[1], copies[2], **walk)  # type: ignore[arg-type]
    theirs = activate(z if copies[3] is None else z + copies[3], activation)
    theirs.backward(upstream)
    torch.testing.assert_close(y, theirs)
    assert y.is_contiguous(memory_format=LAST) == theirs.is_contiguous(memory_format=LAST)
    for mine, other in zip(leaves, copies, strict=True):
        if mine is not None and other is not None:
            assert mine.grad is not None
            assert other.grad is not None
            torch.testing.assert_close(mine.grad, other.grad)
            assert mine.grad.stride() == mine.stride()


def test_explain_names_the_choice_and_every_other_candidate() -> None:
    x, weight = torch.randn(2, 16, 14, 14), torch.randn(32, 16, 3, 3)
    for operation in (tilewright.conv2d, "conv2d", tilewright.conv2d_relu):
        explanation = tilewright.explain(operation, x, weight, padding="same")
        assert explanation.operation == "conv2d"
        assert sum(candidate.chosen for candidate in explanation.candidates) == 1
        assert all(candidate.chosen or candidate.reason for candidate in explanation.candidates)
        assert {candidate.backend for candidate in explanation.candidates} >= {"aten", "reference"}
        for words in ("2x14x14", "3x3", "p1x1x1x1", "runs ", "because ", "why not"):
            assert words in str(explanation)
        json.dumps(explanation.to_dict())
    assert "relu" in explanation.problem.describe()
    with tilewright.options(backend="reference"):
        assert tilewright.explain(tilewright.conv2d, x, weight).choice.backend == "reference"


def test_explain_says_so_where_a_convolution_is_a_product() -> None:
    x, weight = torch.randn(2, 16, 7, 7).to(memory_format=LAST), torch.randn(32, 16, 1, 1)
    explanation = tilewright.explain(tilewright.conv2d_relu, x, weight)
    assert explanation.operation == "matmul"
    assert "98x32x16" in str(explanation)
    assert tilewright.explain(tilewright.conv2d, x, weight, stride=2).operation == "conv2d"


def test_tuning_sees_the_three_directions() -> None:
    x, weight = torch.randn(1, 8, 9, 9, requires_grad=True), torch.randn(8, 8, 3, 3, requires_grad=True)
    with tilewright.tuning(budget_s=0.2, progress=False) as session:
        tilewright.conv2d_relu(x, weight, padding=1).sum().backward()
    report = session.report
    assert not report.skipped
    assert {result.problem.direction for result in report.results} == {
        "forward",
        "input_gradient",
        "weight_gradient",
    }
    assert tilewright.explain(tilewright.conv2d_relu, x, weight, padding=1).choice.source == "store"
    torch.testing.assert_close(
        tilewright.conv2d_relu(x, weight, padding=1), F.conv2d(x, weight, padding=1).relu()
    )


def test_precision_is_part_of_the_problem() -> None:
    x, weight = torch.randn(1, 8, 9, 9), torch.randn(8, 8, 3, 3)
    assert conv2d_problem(x, weight).precision == "ieee"
    with tilewright.options(precision="tf32"):
        assert conv2d_problem(x, weight).precision == "tf32"
        assert conv2d_problem(x.double(), weight.double()).precision == "ieee"


@st.composite
def _convolutions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, dict[str, Any]]:
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 5]))
    each, filters = draw(st.integers(1, 9)), draw(st.integers(1, 11))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3)]))
    padding: Any = draw(st.sampled_from([0, 1, (2, 0), (0, 3), "same"]))
    if padding == "same":
        stride = 1, 1
    sides = [step * (side - 1) + draw(st.integers(1, 9)) for step, side in zip(dilation, kernel, strict=True)]

    def laid_out(shape: tuple[int, ...]) -> Tensor:
        how = draw(st.sampled_from(["plain", "last", "sliced", "turned", "expanded"]))
        if how == "last":
            return torch.randn(shape).to(dtype).contiguous(memory_format=LAST)
        if how == "sliced":
            wide = torch.randn([size + 2 for size in shape]).to(dtype)
            return wide[tuple(slice(1, size + 1) for size in shape)]
        if how == "turned":
            return torch.randn([*shape[:2], shape[3], shape[2]]).to(dtype).mT
        if how == "expanded":
            dim = draw(st.integers(0, 3))
            return (
                torch.randn([1 if i == dim else size for i, size in enumerate(shape)]).to(dtype).expand(shape)
            )
        return torch.randn(shape).to(dtype)

    x = laid_out((draw(st.integers(0, 3)), groups * each, *sides))
    weight = laid_out((groups * filters, each, *kernel))
    bias = torch.randn(groups * filters).to(dtype) if draw(st.booleans()) else None
    walk = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    out = conv2d_problem(x, weight, **walk).y_shape
    residual = None
    if draw(st.booleans()):
        kept = [draw(st.booleans()) for _ in range(4)]
        residual = torch.randn([size if keep else 1 for size, keep in zip(out, kept, strict=True)])
        residual = residual.to(draw(st.sampled_from([dtype, torch.float32])))
    return x, weight, bias, residual, walk


@pytest.mark.parametrize("backend", ["cpu", "aten", None])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given_=_convolutions(), activation=st.sampled_from(["none", "relu", "gelu_tanh"]))
def test_any_geometry_and_layout(backend: str | None, given_: Any, activation: str) -> None:
    x, weight, bias, residual, walk = given_
    problem = conv2d_problem(x, weight, bias, residual=residual, activation=activation, **walk)
    with tilewright.options(backend=backend):
        y = tilewright.conv2d(x, weight, bias, residual=residual, activation=activation, **walk)
    assert oracle(problem, (x, weight, bias, residual))((y,)) is None
    theirs = F.conv2d(x, weight, **walk)
    assert y.shape == theirs.shape
    if y.numel():
        assert y.is_contiguous(memory_format=LAST) == theirs.is_contiguous(memory_format=LAST)
