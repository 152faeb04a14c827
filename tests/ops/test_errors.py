"""Bad input gets an error that names operation, argument, what it got, what it takes and what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import tilewright
from tilewright.errors import ArgumentError, DeviceError, DtypeError, LayoutError, ShapeError

A = torch.randn(3, 4)
B = torch.randn(4, 5)
W = torch.randn(5, 4)

BAD: list[tuple[str, Callable[[], object], type[Exception], list[str]]] = [
    (
        "inner",
        lambda: tilewright.matmul(A, W),
        ShapeError,
        ["matmul: b has shape (5, 4)", "K = 4", "transpose"],
    ),
    (
        "batch",
        lambda: tilewright.matmul(torch.randn(2, 3, 4), torch.randn(7, 4, 5)),
        ShapeError,
        ["(7, 4, 5)", "(2,)"],
    ),
    ("scalar", lambda: tilewright.matmul(torch.tensor(1.0), B), ShapeError, ["a has shape ()"]),
    (
        "bias",
        lambda: tilewright.matmul(A, B, bias=torch.randn(4)),
        ShapeError,
        ["bias has shape (4,)", "(5,)"],
    ),
    ("bias2", lambda: tilewright.matmul(A, B, bias=torch.randn(1, 5)), ShapeError, ["bias has shape (1, 5)"]),
    (
        "residual",
        lambda: tilewright.matmul(A, B, residual=torch.randn(4, 5)),
        ShapeError,
        ["residual", "(3, 5)"],
    ),
    (
        "residual grows",
        lambda: tilewright.matmul(A, B, residual=torch.randn(2, 3, 5)),
        ShapeError,
        ["residual"],
    ),
    (
        "activation",
        lambda: tilewright.matmul(A, B, activation="rleu"),
        ArgumentError,
        ["'rleu'", "relu, gelu"],
    ),
    (
        "dtypes",
        lambda: tilewright.matmul(A, B.double()),
        DtypeError,
        ["b has dtype float64", "float32", "autocast"],
    ),
    ("complex", lambda: tilewright.matmul(A.cfloat(), B.cfloat()), DtypeError, ["a has dtype complex64"]),
    ("bias dtype", lambda: tilewright.matmul(A, B, bias=torch.ones(5).int()), DtypeError, ["bias", "int32"]),
    (
        "double bias",
        lambda: tilewright.matmul(A.double(), B.double(), bias=torch.ones(5)),
        DtypeError,
        ["bias has dtype float32", "float64"],
    ),
    ("out", lambda: tilewright.matmul(A, B, out_dtype=torch.int8), DtypeError, ["out_dtype is int8"]),
    (
        "int gelu",
        lambda: tilewright.matmul(A.int(), B.int(), activation="gelu"),
        DtypeError,
        ["int32", "gelu"],
    ),
    ("list", lambda: tilewright.matmul([[1.0]], B), ArgumentError, ["a is of type list", "as_tensor"]),  # type: ignore[arg-type]
    ("none", lambda: tilewright.matmul(A, None), ArgumentError, ["b is of type NoneType"]),  # type: ignore[arg-type]
    ("sparse", lambda: tilewright.matmul(A.to_sparse(), B), LayoutError, ["sparse_coo", "to_dense"]),
    ("meta", lambda: tilewright.matmul(A, B.to("meta")), DeviceError, ["b is on meta", "cpu"]),
    (
        "linear weight",
        lambda: tilewright.linear(A, B),
        ShapeError,
        ["linear: weight has shape (4, 5)", "x (..., 4)"],
    ),
    (
        "linear rank",
        lambda: tilewright.linear(A, torch.randn(1, 5, 4)),
        ShapeError,
        ["linear: weight", "(1, 5, 4)"],
    ),
    (
        "linear bias",
        lambda: tilewright.linear(A, W, torch.randn(3)),
        ShapeError,
        ["linear: bias has shape (3,)"],
    ),
    ("linear type", lambda: tilewright.linear(A, 3), ArgumentError, ["linear: weight is of type int"]),  # type: ignore[arg-type]
    ("linear x type", lambda: tilewright.linear("x", W), ArgumentError, ["linear: x is of type str"]),  # type: ignore[arg-type]
    (
        "linear dtype",
        lambda: tilewright.linear(A.half(), W),
        DtypeError,
        ["linear: weight has dtype float32"],
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_says_what_is_wrong(call: Callable[[], object], kind: type[Exception], words: list[str]) -> None:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, tilewright.Error)
    assert message.startswith(("matmul: ", "linear: "))
    for word in words:
        assert word in message
    assert ";" in message, "no remedy"


def test_errors_are_the_built_in_ones_too() -> None:
    with pytest.raises(ValueError, match="matmul"):
        tilewright.matmul(A, W)
    with pytest.raises(TypeError, match="matmul"):
        tilewright.matmul(A, B.double())


@pytest.mark.parametrize("gradients", [False, True])
def test_checked_under_gradients_and_transforms_too(gradients: bool) -> None:
    a = A.clone().requires_grad_(gradients)
    with pytest.raises(ShapeError, match="b has shape"):
        tilewright.matmul(a, W)
    with pytest.raises(ShapeError, match="b has shape"):
        torch.vmap(lambda row: tilewright.matmul(row, W))(A)
    with pytest.raises(ArgumentError, match="activation"):
        torch.func.grad(lambda x: tilewright.matmul(x, B, activation="no").sum())(A)


def test_options_are_checked() -> None:
    for bad, words in (
        ({"backend": "cudnn"}, "backend is 'cudnn'"),
        ({"precision": "bf16"}, "precision is 'bf16'"),
        ({"deterministic": 1}, "deterministic is 1"),
    ):
        with pytest.raises(ArgumentError, match=words), tilewright.options(**bad):  # type: ignore[arg-type]
            pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="the Triton backend can run on this machine")
def test_a_backend_that_cannot_run_falls_back_with_one_warning_or_raises_when_strict(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with tilewright.options(backend="triton"), caplog.at_level("WARNING", logger="tilewright"):
        for rows in (3, 4, 5):
            torch.testing.assert_close(tilewright.matmul(A[:rows], B), A[:rows] @ B)
        assert sum("triton" in record.getMessage() for record in caplog.records) <= 1
    with (
        tilewright.options(backend="triton", strict=True),
        pytest.raises(DeviceError, match="backend triton is not available"),
    ):
        tilewright.matmul(A, B)
