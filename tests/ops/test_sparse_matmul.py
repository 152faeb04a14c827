"""sparse_matmul as torch sees it: gradients, tracing, autocast, errors; what is packed, and when it is not used."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

import tilewright
from tilewright.errors import ArgumentError, DtypeError, FormatError, ShapeError
from tilewright.kernels.epilogue import ACTIVATIONS, activate
from tilewright.ops import sparse_operands
from tilewright.ops.sparse_matmul_op import PLAIN, WITH_PREACT, arguments_of
from tilewright.sparse import SparseWeight, compress

FORMATS: list[tuple[str, tuple[int, int] | None]] = [("2:4", None), ("bitmap", None), ("bsr", (3, 4))]
EACH = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])


def _weight(
    form: tuple[str, tuple[int, int] | None], n: int = 7, k: int = 10, dtype: torch.dtype = torch.float32
) -> SparseWeight:
    name, block = form
    mask = torch.rand(n, k) < 0.5
    if name == "2:4":
        mask = torch.zeros(n, -(-k // 4), 4).scatter(2, torch.rand(n, -(-k // 4), 4).topk(2, 2).indices, 1)
        mask = mask.view(n, -1)[:, :k].bool()
    if name == "bsr":
        assert block is not None
        r, c = block
        mask = (torch.rand(-(-n // r), -(-k // c)) < 0.5).repeat_interleave(r, 0).repeat_interleave(c, 1)
        mask = mask[:n, :k]
    return compress(torch.randn(n, k, dtype=dtype), name, block=block, mask=mask)


def _with_gradient(weight: SparseWeight) -> SparseWeight:
    return weight.with_values(weight.values.clone().requires_grad_())


@EACH
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("table", [PLAIN, WITH_PREACT], ids=["plain", "with_preact"])
def test_opcheck(form: tuple[str, Any], activation: str, table: dict[str, Any]) -> None:
    weight = _with_gradient(_weight(form))
    x, bias, residual = (torch.randn(s, requires_grad=True) for s in ((2, 3, 10), (7,), (3, 7)))
    given = arguments_of(form[0], x, weight.buffers, 7, bias, residual, activation)
    opcheck(table[form[0]].overload, tuple(given))
    plain = arguments_of(form[0], x.detach(), _weight(form).buffers, 7, activation=activation)
    opcheck(table[form[0]].overload, tuple(plain))


@EACH
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(form: tuple[str, Any], activation: str) -> None:
    weight = _weight(form, dtype=torch.float64)
    kept = weight.kept()
    x, bias, residual = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 10), (7,), (3, 7))
    )
    # Through the dense matrix, so that no value in the padding is moved, which the format forbids.
    dense = weight.to_dense().detach().requires_grad_()

    def call(x: Tensor, dense: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        moved = weight.with_values(weight.sample(dense))
        return tilewright.sparse_matmul(x, moved, bias, activation=activation, residual=residual)

    leaves = (x, dense, bias, residual)
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
    grad = torch.autograd.grad(call(*leaves).sum(), dense)[0]
    assert not grad[~kept].any()
    assert grad[kept].any()


@EACH
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_gradients_of_the_operations_themselves(form: tuple[str, Any], activation: str) -> None:
    """A direct call keeps no pre-activation and computes it again."""
    weight = _with_gradient(_weight(form))
    x = torch.randn(4, 10, requires_grad=True)
    upstream = torch.randn(4, 7)
    given = arguments_of(form[0], x, weight.buffers, 7, activation=activation)
    found = torch.autograd.grad(PLAIN[form[0]].overload(*given), (x, weight.values), upstream)
    y = activate(torch.nn.functional.linear(x, weight.to_dense()), activation)
    expected = torch.autograd.grad(y, (x, weight.values), upstream)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@EACH
def test_functorch_and_forward_mode(form: tuple[str, Any]) -> None:
    weight, dense = (w := _weight(form, dtype=torch.float64)), w.to_dense()
    x, tangent = torch.randn(4, 10, dtype=torch.float64), torch.randn(4, 10, dtype=torch.float64)

    def ours(x: Tensor) -> Tensor:
        return tilewright.sparse_matmul(x, weight, activation="silu")

    def theirs(x: Tensor) -> Tensor:
        return torch.nn.functional.silu(x @ dense.t())

    for mine, their in zip(
        torch.func.jvp(ours, (x,), (tangent,)), torch.func.jvp(theirs, (x,), (tangent,)), strict=True
    ):
        torch.testing.assert_close(mine, their)
    torch.testing.assert_close(torch.func.vmap(ours)(x), theirs(x))
    torch.testing.assert_close(torch.func.jacrev(ours)(x), torch.func.jacrev(theirs)(x))


@EACH
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph_forward_and_backward(form: tuple[str, Any], dynamic: bool) -> None:
    torch._dynamo.reset()  # or the formats, which share the code of `step`, add up to too many versions of it
    weight = _with_gradient(_weight(form))

    def step(x: Tensor, *buffers: Tensor) -> Tensor:
        return PLAIN[form[0]].overload(*arguments_of(form[0], x, buffers, 7, activation="relu")) * 2

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (3, 5):
        x = torch.randn(rows, 10, requires_grad=True)
        found, expected = compiled(x, *weight.buffers), step(x, *weight.buffers)
        torch.testing.assert_close(found, expected)
        ours = torch.autograd.grad(found.sum(), (x, weight.values))
        for mine, their in zip(ours, torch.autograd.grad(expected.sum(), (x, weight.values)), strict=True):
            torch.testing.assert_close(mine, their)


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(form: tuple[str, Any], dtype: torch.dtype) -> None:
    weight, x, bias = _with_gradient(_weight(form)), torch.randn(4, 10), torch.randn(7)
    with torch.autocast("cpu", dtype):
        y = tilewright.sparse_matmul(x, weight, bias)
    assert y.dtype == dtype
    expected = torch.nn.functional.linear(x, weight.to_dense(), bias)
    torch.testing.assert_close(y.float(), expected, rtol=3e-2, atol=3e-2)
    y.float().sum().backward()
    assert weight.values.grad is not None
    assert weight.values.grad.dtype == torch.float32


@EACH
def test_flops_are_those_of_stored_values(form: tuple[str, Any]) -> None:
    weight = _weight(form)
    with FlopCounterMode(display=False) as counter:
        tilewright.sparse_matmul(torch.randn(2, 3, 10), weight)
    assert counter.get_total_flops() == 2 * 6 * weight.values.numel()


@EACH
@pytest.mark.parametrize("backend", ["aten", "reference"])
def test_ranks_and_layouts(form: tuple[str, Any], backend: str) -> None:
    weight = _weight(form)
    dense = weight.to_dense()
    with tilewright.options(backend=backend, strict=True):
        for x in (
            torch.randn(10),
            torch.randn(0, 10),
            torch.randn(2, 0, 10),
            torch.randn(3, 2, 4, 10).transpose(0, 2),
            torch.randn(10, 4).t(),
            torch.randn(4, 10).expand(3, 4, 10),
        ):
            for residual in (None, torch.randn(7), torch.randn(*x.shape[:-1], 1)):
                y = tilewright.sparse_matmul(x, weight, residual=residual)
                z = x @ dense.t() if residual is None else x @ dense.t() + residual
                torch.testing.assert_close(y, z)
                assert y.is_contiguous()


def test_explain_and_tune() -> None:
    weight, x = _weight(("bitmap", None), 64, 96), torch.randn(8, 96)
    explained = tilewright.explain(tilewright.sparse_matmul, x, weight, activation="relu")
    assert {candidate.backend for candidate in explained.candidates} >= {"aten", "reference"}
    assert sum(candidate.chosen for candidate in explained.candidates) == 1
    assert "8x64x96" in str(explained)
    before = tilewright.sparse_matmul(x, weight, activation="relu")
    report = tilewright.tune(
        lambda x: tilewright.sparse_matmul(x, weight, activation="relu"), x, budget_s=0.5, progress=False
    )
    assert "8x64x96" in str(report)
    after = tilewright.explain(tilewright.sparse_matmul, x, weight, activation="relu")
    assert after.choice.source == "store"
    torch.testing.assert_close(tilewright.sparse_matmul(x, weight, activation="relu"), before)


# --- what is packed ----------------------------------------------------------------------------------------------


@EACH
def test_writes_are_noticed(form: tuple[str, Any]) -> None:
    weight, x = _weight(form), torch.randn(3, 10)

    def right() -> None:
        torch.testing.assert_close(tilewright.sparse_matmul(x, weight), x @ weight.to_dense().t())

    right()
    right()
    weight.values.mul_(2)  # counted
    right()
    weight.values.data.mul_(3)  # not counted, seen in the sample
    right()
    for _ in range(4):  # training: packed only when seen twice
        weight.values.mul_(0.5)
        right()
    right()
    right()
    with torch.inference_mode():
        right()
    with tilewright.options(pack=False):
        right()


@EACH
def test_a_counted_write_has_the_positions_checked_again(form: tuple[str, Any]) -> None:
    weight, x = _weight(form), torch.randn(3, 10)
    tilewright.sparse_matmul(x, weight)
    positions = weight.buffers[0 if form[0] != "2:4" else 1]
    positions[-1] = 255 if form[0] == "2:4" else 1 << 20
    with pytest.raises(FormatError, match="sparse_matmul_"):
        tilewright.sparse_matmul(x, weight)


def test_memory_goes_with_the_weight() -> None:
    sparse_operands._known.clear()
    weight = _weight(("bitmap", None), 64, 64)
    tilewright.sparse_matmul(torch.randn(3, 64), weight)
    assert len(sparse_operands._known) == 1
    del weight
    gc.collect()
    assert not sparse_operands._known


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        weight, x = _weight(("bsr", (3, 4))), torch.randn(3, 10)
        for _ in range(2):
            torch.testing.assert_close(tilewright.sparse_matmul(x, weight), x @ weight.to_dense().t())
        weight.buffers[0][1] = 77
        with pytest.raises(FormatError, match=r"crow\["):
            tilewright.sparse_matmul(x, weight)


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, w: (x, w.to_dense()), ArgumentError, "compress"),
        (lambda x, w: (x.tolist(), w), ArgumentError, "x is of type list"),
        (lambda x, w: (x[:, :9], w), ShapeError, r"x has shape \(3, 9\); expected \(..., 10\)"),
        (lambda x, w: (torch.tensor(1.0), w), ShapeError, "x has shape"),
        (lambda x, w: (x.int(), w), DtypeError, "x has dtype int32"),
        (lambda x, w: (x.half(), w), DtypeError, "values has dtype float32; expected float16"),
        (lambda x, w: (x, w, torch.randn(8)), ShapeError, r"bias has shape \(8,\)"),
        (lambda x, w: (x, w, torch.randn(7).int()), DtypeError, "bias has dtype int32"),
    ],
)
def test_errors(change: Callable[..., Any], error: type[Exception], words: str) -> None:
    args = change(torch.randn(3, 10), _weight(("bitmap", None)))
    with pytest.raises(error, match=words):
        tilewright.sparse_matmul(*args)


def test_errors_of_keywords() -> None:
    x, weight = torch.randn(3, 10), _weight(("bitmap", None))
    with pytest.raises(ShapeError, match="residual has shape"):
        tilewright.sparse_matmul(x, weight, residual=torch.randn(4, 7))
    with pytest.raises(ArgumentError, match="activation is 'tanh'"):
        tilewright.sparse_matmul(x, weight, activation="tanh")


@EACH
def test_hostile_buffers_given_to_the_operation_itself(form: tuple[str, Any]) -> None:
    x, weight = torch.randn(3, 10), _weight(form)
    operation = PLAIN[form[0]].overload
    for at, buffer in enumerate(weight.buffers):
        if buffer.is_floating_point():
            continue
        for bad in (
            buffer.long() - 1,
            torch.full_like(buffer, 99),
            buffer[..., :-1],
            buffer.t().contiguous()[None],
        ):
            buffers = (*weight.buffers[:at], bad, *weight.buffers[at + 1 :])
            with pytest.raises(FormatError, match=f"sparse_matmul_.*{weight.names[at]}"):
                operation(*arguments_of(form[0], x, buffers, 7))
