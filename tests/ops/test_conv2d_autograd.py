"""Gradients of conv2d to any order, functorch, forward mode, vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import tilewright
from tilewright import dispatch
from tilewright.kernels.epilogue import ACTIVATIONS, activate
from tilewright.settings import Options
from tilewright.tuner import Choice

ACTS = pytest.mark.parametrize("activation", ACTIVATIONS)
FORWARD = (torch.ops.tilewright.conv2d, torch.ops.tilewright.conv2d_with_preact)
GRADIENTS = (torch.ops.tilewright.conv2d_input_gradient, torch.ops.tilewright.conv2d_weight_gradient)


def _leaves(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def _last(tensor: Tensor) -> Tensor:
    return tensor.detach().to(memory_format=torch.channels_last).requires_grad_(tensor.requires_grad)


@ACTS
@pytest.mark.parametrize("op", FORWARD, ids=["conv2d", "conv2d_with_preact"])
def test_opcheck(op: Any, activation: str) -> None:
    x, w, bias, residual = _leaves((2, 3, 5, 6), (4, 3, 3, 2), (4,), (2, 4, 4, 7))
    walk = {"padding": [1, 0, 2, 0]}
    opcheck(op.default, (x, w, bias, residual), {"activation": activation, **walk})
    opcheck(op.default, (_last(x).detach(), w.detach()), {"activation": activation, **walk})


@pytest.mark.parametrize("last", [False, True])
def test_opcheck_of_the_gradients(last: bool) -> None:
    x, w, dy = _leaves((2, 4, 5, 6), (6, 2, 3, 2), (2, 6, 3, 7))
    walk = ([2, 1], [1, 1, 0, 2], [1, 1], 2, last)
    opcheck(torch.ops.tilewright.conv2d_input_gradient.default, (dy, w, [5, 6], *walk))
    opcheck(torch.ops.tilewright.conv2d_weight_gradient.default, (dy, x, [3, 2], *walk))


@ACTS
@pytest.mark.parametrize("op", FORWARD, ids=["conv2d", "conv2d_with_preact"])
def test_gradcheck_of_the_operations_themselves(op: Callable[..., object], activation: str) -> None:
    leaves = _leaves((1, 2, 4, 3), (2, 2, 2, 2), (2,), (2, 1, 1), dtype=torch.float64)

    def call(*tensors: Tensor) -> object:
        return op(*tensors, activation=activation, padding=[0, 1, 0, 0])

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_gradcheck_of_the_gradients() -> None:
    x, w, dy = _leaves((1, 4, 4, 3), (2, 2, 2, 2), (1, 2, 2, 3), dtype=torch.float64)
    walk = ([2, 1], [0, 1, 1, 0], [1, 1], 2, False)
    for op, other, sides in zip(GRADIENTS, (w, x), ([4, 3], [2, 2]), strict=True):

        def call(grad: Tensor, other: Tensor, op: Any = op, sides: Any = sides) -> Tensor:
            found: Tensor = op(grad, other, sides, *walk)
            return found

        assert torch.autograd.gradcheck(call, (dy, other))
        assert torch.autograd.gradgradcheck(call, (dy, other))


GEOMETRIES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 2, 4, 4), (3, 2, 3, 3), {"padding": 1}),
    ((2, 2, 5, 4), (2, 2, 3, 2), {"stride": (2, 1), "padding": (1, 0)}),
    ((1, 2, 6, 6), (2, 2, 2, 3), {"dilation": (3, 2), "padding": 2, "stride": 2}),
    ((1, 4, 4, 4), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    ((1, 4, 3, 3), (2, 2, 2, 2), {"groups": 2, "padding": "same"}),
    ((2, 3, 2, 2), (2, 3, 1, 1), {}),
    ((2, 3, 1, 1), (2, 3, 1, 1), {}),
    ((2, 3, 4, 3), (2, 3, 1, 1), {"stride": 2}),
    ((2, 4, 3), (2, 2, 2, 2), {"padding": "valid"}),
    ((0, 2, 3, 3), (2, 2, 2, 2), {}),
]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("x", "w", "walk"), GEOMETRIES, ids=str)
def test_gradcheck_of_every_geometry(
    x: tuple[int, ...], w: tuple[int, ...], walk: dict[str, Any], last: bool
) -> None:
    out = torch.nn.functional.conv2d(torch.zeros(x), torch.zeros(w), **walk).shape
    leaves = _leaves(x, w, (w[0],), tuple(out), dtype=torch.float64)
    if last:
        leaves = [_last(leaf) if leaf.ndim == 4 else leaf for leaf in leaves]

    def call(x: Tensor, w: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return tilewright.conv2d(x, w, bias, residual=residual, activation="gelu", **walk)

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@ACTS
@pytest.mark.parametrize("backend", ["cpu", "aten", "reference"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_agree_with_torch(activation: str, backend: str, kernel: int, dtype: torch.dtype) -> None:
    shapes = ((2, 6, 7, 8), (10, 6, kernel, kernel), (10,), (2, 10, 7, 8))
    ours = [t.to(dtype).detach().requires_grad_() for t in _leaves(*shapes)]
    exact = [t.detach().double().requires_grad_() for t in ours]
    padding = kernel // 2

    def theirs() -> Tensor:
        x, w, bias, residual = exact
        return torch.nn.functional.conv2d(x, w, bias, padding=padding) + residual

    # Where z is near 0, rounding decides whether relu passes a gradient at all: none is sent there.
    upstream = torch.randn(2, 10, 7, 8) * (theirs().detach().abs() > 0.1)
    x, w, bias, residual = ours
    with tilewright.options(backend=backend):
        y = tilewright.conv2d(x, w, bias, padding=padding, activation=activation, residual=residual)
        y.backward(upstream.to(dtype))
    activate(theirs(), activation).backward(upstream.to(dtype).double())
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    for mine, other in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert mine.grad.dtype == dtype
        assert ((mine.grad.double() - other.grad).abs().max() / other.grad.abs().max()) < tolerance


def test_gradients_lie_like_what_they_are_the_gradients_of() -> None:
    x, w = _leaves((2, 4, 5, 5), (6, 4, 3, 3))
    for images, filters in ((x, w), (_last(x), w), (x, _last(w)), (_last(x), _last(w))):
        leaves = [images.detach().clone().requires_grad_(), filters.detach().clone().requires_grad_()]
        tilewright.conv2d(*leaves).square().sum().backward()
        for leaf in leaves:
            assert leaf.grad is not None
            assert leaf.grad.stride() == leaf.stride()


def test_only_what_is_asked_for_gets_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    posed: list[str] = []
    choose = dispatch.choose

    def watched(operation: str, problem: Any, options: Options) -> Choice:
        posed.append(problem.direction)
        return choose(operation, problem, options)

    monkeypatch.setattr(dispatch, "choose", watched)
    dispatch.forget()
    x, w = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3, requires_grad=True)
    tilewright.conv2d(x, w).sum().backward()
    assert x.grad is None
    assert w.grad is not None
    assert posed == ["forward", "weight_gradient"]
    with torch.no_grad():
        assert not tilewright.conv2d(x, w).requires_grad
    with torch.inference_mode():
        assert tilewright.conv2d(x, w).is_inference()


def test_addends_of_other_dtypes_get_gradients_of_theirs() -> None:
    x, w = (t.bfloat16().detach().requires_grad_() for t in _leaves((1, 3, 5, 5), (4, 3, 3, 3)))
    bias, residual = _leaves((4,), (4, 1, 1))
    tilewright.conv2d(x, w, bias, residual=residual, activation="silu").float().sum().backward()
    for leaf in (x, w, bias, residual):
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        assert leaf.grad.shape == leaf.shape


@ACTS
@pytest.mark.parametrize("kernel", [1, 2])
def test_functorch_and_forward_mode(activation: str, kernel: int) -> None:
    x, w, bias = (
        t.detach() for t in _leaves((2, 2, 3, 3), (3, 2, kernel, kernel), (3,), dtype=torch.float64)
    )
    pad = {1: 0, 2: "same"}[kernel]

    def ours(x: Tensor) -> Tensor:
        return tilewright.conv2d(x, w, bias, padding=pad, activation=activation)  # type: ignore[arg-type]

    def theirs(x: Tensor) -> Tensor:
        return activate(torch.nn.functional.conv2d(x, w, bias, padding=pad), activation)  # type: ignore[arg-type]

    tangent = torch.randn_like(x)
    torch.testing.assert_close(
        torch.func.jvp(ours, (x,), (tangent,)), torch.func.jvp(theirs, (x,), (tangent,))
    )
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        result = torch.autograd.forward_ad.unpack_dual(ours(dual)).tangent
    assert result is not None
    torch.testing.assert_close(result, torch.func.jvp(theirs, (x,), (tangent,))[1])
    grad = torch.func.grad(lambda x: ours(x).square().sum())
    torch.testing.assert_close(grad(x), torch.func.grad(lambda x: theirs(x).square().sum())(x))
    torch.testing.assert_close(
        torch.func.hessian(lambda x: ours(x).square().sum())(x[:1]),
        torch.func.hessian(lambda x: theirs(x).square().sum())(x[:1]),
    )
    torch.testing.assert_close(torch.vmap(ours)(x), torch.vmap(theirs)(x))  # images without a batch
    many = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.vmap(ours)(many), torch.vmap(theirs)(many))
    torch.testing.assert_close(torch.func.jacrev(ours)(x), torch.func.jacfwd(theirs)(x))


def test_vmap_over_weights_and_addends() -> None:
    x, w, bias, residual = (
        t.detach() for t in _leaves((2, 3, 4, 4), (5, 4, 3, 2, 2), (5, 4), (5, 2, 4, 3, 3))
    )

    def ours(w: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return tilewright.conv2d_relu(x, w, bias, residual=residual)

    expected = torch.stack([ours(w[i], bias[i], residual[i]) for i in range(5)])
    torch.testing.assert_close(torch.vmap(ours)(w, bias, residual), expected)


@ACTS
def test_backward_of_many_gradients_at_once(activation: str) -> None:
    """vmap over the backward pass alone: the forward pass went through the operation."""
    x, w = _leaves((1, 2, 3, 4), (2, 1, 2, 3), dtype=torch.float64)

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return tilewright.conv2d(x, w, activation=activation, padding=1, groups=2)

    one_by_one = torch.autograd.functional.jacobian(ours, (x, w))
    at_once = torch.autograd.functional.jacobian(ours, (x, w), vectorize=True)
    torch.testing.assert_close(at_once, one_by_one)


def test_options_reach_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = _leaves((1, 2, 4, 4), (3, 2, 3, 3))
    with tilewright.options(backend="reference"):
        y = tilewright.conv2d(x, w)
    # Leaving the block must not change what runs the backward pass of what was computed inside.
    chosen: list[str] = []
    choose = dispatch.choose

    def watched(operation: str, problem: object, options: Options) -> Choice:
        choice = choose(operation, problem, options)
        chosen.append(choice.backend)
        return choice

    monkeypatch.setattr(dispatch, "choose", watched)
    dispatch.forget()
    y.sum().backward()
    assert chosen == ["reference", "reference"]
