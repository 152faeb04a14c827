"""Gradients to any order, functorch, forward mode, vmap."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import tilewright
from tilewright import dispatch
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.settings import Options
from tilewright.tuner import Choice

ACTS = pytest.mark.parametrize("activation", ACTIVATIONS)
OPS = (torch.ops.tilewright.matmul, torch.ops.tilewright.matmul_with_preact)


def _leaves(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@ACTS
@pytest.mark.parametrize("op", OPS, ids=["matmul", "matmul_with_preact"])
def test_opcheck(op: Callable[..., object], activation: str) -> None:
    x, w, bias, residual = _leaves((3, 4), (5, 4), (5,), (3, 5))
    opcheck(op.default, (x, w.t(), bias, residual), {"activation": activation})  # type: ignore[attr-defined]
    opcheck(op.default, (x.detach(), w.detach().t()), {"activation": activation})  # type: ignore[attr-defined]


@ACTS
@pytest.mark.parametrize("op", OPS, ids=["matmul", "matmul_with_preact"])
def test_gradcheck_of_the_operations_themselves(op: Callable[..., object], activation: str) -> None:
    leaves = _leaves((2, 3, 4), (4, 5), (5,), (3, 5), dtype=torch.float64)

    def call(*tensors: Tensor) -> object:
        return op(*tensors, activation=activation)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((6,), (6,)),
        ((6,), (6, 2)),
        ((3, 6), (6,)),
        ((2, 3, 6), (6,)),
        ((6,), (2, 6, 3)),
        ((2, 1, 3, 4), (3, 4, 2)),
        ((3, 4), (2, 4, 3)),
        ((2, 3, 0), (0, 4)),
        ((0, 3), (3, 4)),
    ],
    ids=str,
)
def test_gradcheck_in_every_rank(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    out = torch.matmul(torch.zeros(a), torch.zeros(b)).shape
    bias = (b[-1],) if len(b) > 1 else (1,)
    leaves = _leaves(a, b, bias, tuple(out), dtype=torch.float64)

    def call(x: Tensor, y: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return tilewright.matmul(x, y, bias=bias, residual=residual, activation="gelu")

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


@ACTS
@pytest.mark.parametrize("backend", ["cpu", "aten", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_agree_with_torch(activation: str, backend: str, dtype: torch.dtype) -> None:
    ours = [t.to(dtype).detach().requires_grad_() for t in _leaves((7, 9, 20), (15, 20), (15,), (7, 9, 15))]
    exact = [t.detach().double().requires_grad_() for t in ours]
    x, w, bias, residual = exact
    # Where z is near 0, rounding decides whether relu passes a gradient at all: none is sent there.
    z = torch.nn.functional.linear(x, w, bias) + residual
    upstream = torch.randn(7, 9, 15) * (z.detach().abs() > 0.1)
    x, w, bias, residual = ours
    with tilewright.options(backend=backend, strict=True):
        y = tilewright.linear(x, w, bias, activation=activation, residual=residual)
        y.backward(upstream.to(dtype))
    x, w, bias, residual = exact
    z = torch.nn.functional.linear(x, w, bias) + residual
    if activation == "relu":
        z = torch.relu(z)
    elif activation != "none":
        tanh = "tanh" if activation == "gelu_tanh" else "none"
        z = (
            torch.nn.functional.silu(z)
            if activation == "silu"
            else torch.nn.functional.gelu(z, approximate=tanh)
        )
    z.backward(upstream.to(dtype).double())
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert mine.grad.dtype == dtype
        scale = theirs.grad.abs().max()
        assert ((mine.grad.double() - theirs.grad).abs().max() / scale) < tolerance


@pytest.mark.parametrize("a_by_columns", [False, True])
@pytest.mark.parametrize("b_by_columns", [False, True])
@pytest.mark.parametrize(("rows", "batch"), [((3,), ()), ((2, 3), ()), ((2, 3), (2,))])
def test_gradients_are_laid_out_as_their_operands(
    a_by_columns: bool, b_by_columns: bool, rows: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    def leaf(shape: tuple[int, ...], by_columns: bool) -> Tensor:
        found = torch.randn(*shape[:-2], shape[-1], shape[-2]).mT if by_columns else torch.randn(shape)
        return found.requires_grad_()

    a, b = leaf((*rows, 5), a_by_columns), leaf((*batch, 5, 4), b_by_columns)
    grad = torch.randn_like(a @ b)
    found = torch.autograd.grad(tilewright.matmul(a, b), (a, b), grad)
    right = torch.autograd.grad(a @ b, (a, b), grad)
    for mine, theirs, operand in zip(found, right, (a, b), strict=True):
        torch.testing.assert_close(mine, theirs)
        assert mine.stride() == operand.stride()


def test_a_weight_gets_its_gradient_without_a_copy() -> None:
    layer = tilewright.nn.Linear(6, 4, activation="relu")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(torch.randn(3, 6)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_contiguous()
    assert not {"aten::copy_", "aten::clone"} & {event.key for event in profile.key_averages()}


def test_gradients_of_a_wider_output() -> None:
    a = torch.randn(5, 6).bfloat16().requires_grad_()
    b = torch.randn(6, 4).bfloat16().requires_grad_()
    bias = torch.randn(4, requires_grad=True)
    tilewright.matmul(a, b, bias=bias, out_dtype=torch.float32, activation="silu").sum().backward()
    exact = [t.detach().double().requires_grad_() for t in (a, b, bias)]
    torch.nn.functional.silu(exact[0] @ exact[1] + exact[2]).sum().backward()
    for mine, theirs in zip((a, b, bias), exact, strict=True):
        assert mine.grad is not None
        assert mine.grad.dtype == mine.dtype
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-2, atol=1e-2)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5, requires_grad=True)
    tilewright.matmul(a, b).sum().backward()
    assert a.grad is None
    assert b.grad is not None
    with torch.no_grad():
        assert not tilewright.matmul(a, b).requires_grad
    with torch.inference_mode():
        assert tilewright.matmul(a, b).is_inference()


@ACTS
def test_functorch_and_forward_mode(activation: str) -> None:
    x, w, bias = (t.detach() for t in _leaves((3, 4), (5, 4), (5,), dtype=torch.float64))

    def ours(x: Tensor) -> Tensor:
        return tilewright.linear(x, w, bias, activation=activation)

    def theirs(x: Tensor) -> Tensor:
        from tilewright.kernels.epilogue import activate

        return activate(torch.nn.functional.linear(x, w, bias), activation)

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
        torch.func.hessian(lambda x: ours(x).square().sum())(x),
        torch.func.hessian(lambda x: theirs(x).square().sum())(x),
    )
    torch.testing.assert_close(torch.vmap(ours)(x), torch.vmap(theirs)(x))
    torch.testing.assert_close(torch.func.jacrev(ours)(x), torch.func.jacfwd(theirs)(x))


@ACTS
def test_backward_of_many_gradients_at_once(activation: str) -> None:
    """vmap over the backward pass alone: the forward pass went through the operation."""
    x, w = _leaves((3, 4), (5, 4), dtype=torch.float64)

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return tilewright.linear(x, w, activation=activation)

    one_by_one = torch.autograd.functional.jacobian(ours, (x, w))
    at_once = torch.autograd.functional.jacobian(ours, (x, w), vectorize=True)
    torch.testing.assert_close(at_once, one_by_one)


def test_options_reach_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    with tilewright.options(backend="reference"):
        y = tilewright.matmul(a, b)
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
