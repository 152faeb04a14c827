"""Bad input of conv2d gets an error that names operation, argument, what it got, what it takes and what to do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tilewright
from tilewright.errors import ArgumentError, DeviceError, DtypeError, LayoutError, ShapeError

X = torch.randn(2, 4, 6, 6)
W = torch.randn(8, 4, 3, 3)
GRAD = torch.randn(2, 8, 4, 4)
WALK = ([1, 1], [0, 0, 0, 0], [1, 1], 1, False)


def conv(*args: Any, **keywords: Any) -> Callable[[], object]:
    return lambda: tilewright.conv2d(*args, **keywords)


def dx(grad: Any, weight: Any, size: Any, *walk: Any) -> Callable[[], object]:
    return lambda: torch.ops.tilewright.conv2d_input_gradient(grad, weight, size, *(walk or WALK))


def dw(grad: Any, x: Any, kernel: Any, *walk: Any) -> Callable[[], object]:
    return lambda: torch.ops.tilewright.conv2d_weight_gradient(grad, x, kernel, *(walk or WALK))


BAD: dict[str, tuple[Callable[[], object], type[Exception], list[str]]] = {
    "x rank": (conv(X[0, 0], W), ShapeError, ["x has shape (6, 6)", "(N, C, H, W) or (C, H, W)"]),
    "x rank 5": (conv(X[None], W), ShapeError, ["x has shape (1, 2, 4, 6, 6)"]),
    "weight rank": (conv(X, W[0]), ShapeError, ["weight has shape (4, 3, 3)", "in_channels / groups"]),
    "weight rank, same": (conv(X, W[0], padding="same"), ShapeError, ["weight has shape (4, 3, 3)"]),
    "channels": (conv(X, W[:, :3]), ShapeError, ["(8, 3, 3, 3)", "(out_channels, 4 / groups", "groups = 1"]),
    "channels and groups": (
        conv(X, W, groups=2),
        ShapeError,
        ["weight has shape", "groups = 2", "4 channels"],
    ),
    "unbatched channels": (conv(X[0, :3], W), ShapeError, ["weight has shape", "3 channels of x"]),
    "groups divide": (conv(X, W[:7, :2], groups=2), ShapeError, ["(7, 2, 3, 3)", "groups = 2 divides"]),
    "pointwise channels": (conv(X, W[:, :3, :1, :1]), ShapeError, ["(8, 3, 1, 1)", "4 channels of x"]),
    "no filters": (conv(X, W[:0]), ShapeError, ["weight has shape (0, 4, 3, 3)", "at least one channel"]),
    "no channels": (conv(X[:, :0], W[:, :0]), ShapeError, ["weight has shape (8, 0, 3, 3)"]),
    "no window": (conv(X, W[:, :, :, :0]), ShapeError, ["(8, 4, 3, 0)", "at least 1x1"]),
    "window": (conv(X[:, :, :2], W), ShapeError, ["weight", "height is 2", "it is 3", "pad it"]),
    "dilated window": (conv(X, W, dilation=(1, 3)), ShapeError, ["width is 6", "dilated to 7"]),
    "no rows": (conv(X[:, :, :0], W, padding=2), ShapeError, ["height is 4"]),
    "stride 0": (conv(X, W, stride=0), ArgumentError, ["stride is (0, 0)", "at least 1"]),
    "stride of three": (conv(X, W, stride=(1, 2, 3)), ArgumentError, ["stride is (1, 2, 3)", "pair"]),
    "stride float": (conv(X, W, stride=1.0), ArgumentError, ["stride is 1.0", "not float", "int()"]),
    "stride bool": (conv(X, W, stride=True), ArgumentError, ["stride is True", "not bool"]),
    "stride text": (conv(X, W, stride="2"), ArgumentError, ["stride is '2'", "not str"]),
    "stride none": (conv(X, W, stride=None), ArgumentError, ["stride is None"]),
    "dilation": (conv(X, W, dilation=(1, -1)), ArgumentError, ["dilation is (1, -1)", "at least 1"]),
    "dilation float": (conv(X, W, dilation=(1, 1.5)), ArgumentError, ["dilation is (1, 1.5)", "not float"]),
    "padding": (conv(X, W, padding=-1), ArgumentError, ["padding is (-1, -1, -1, -1)", "crop"]),
    "padding of three": (conv(X, W, padding=(1, 2, 3)), ArgumentError, ["padding is (1, 2, 3)", "pair"]),
    "padding name": (conv(X, W, padding="full"), ArgumentError, ["padding is 'full'", "'same', 'valid'"]),
    "padding bool": (conv(X, W, padding=False), ArgumentError, ["padding is False", "not bool"]),
    "same and stride": (conv(X, W, padding="same", stride=2), ArgumentError, ["'same' with stride (2, 2)"]),
    "groups": (conv(X, W, groups=0), ArgumentError, ["groups is 0", "at least 1"]),
    "groups float": (conv(X, W, groups=1.0), ArgumentError, ["groups is 1.0", "not float"]),
    "groups pair": (conv(X, W, groups=(1, 1)), ArgumentError, ["groups is (1, 1)", "not tuple"]),
    "bias": (conv(X, W, torch.randn(4)), ShapeError, ["bias has shape (4,)", "(8,)", "residual"]),
    "bias rank": (conv(X, W, torch.randn(8, 1, 1)), ShapeError, ["bias has shape (8, 1, 1)"]),
    "pointwise bias": (conv(X, W[..., :1, :1], torch.randn(4)), ShapeError, ["bias has shape (4,)", "(8,)"]),
    "bias dtype": (conv(X, W, torch.ones(8).int()), DtypeError, ["bias has dtype int32"]),
    "residual": (
        conv(X, W, residual=torch.randn(8)),
        ShapeError,
        ["residual has shape (8,)", "(2, 8, 4, 4)"],
    ),
    "residual grows": (conv(X[:1], W, residual=torch.randn(2, 8, 4, 4)), ShapeError, ["(1, 8, 4, 4)"]),
    "residual of no batch": (
        conv(X[0], W, residual=torch.randn(1, 8, 4, 4)),
        ShapeError,
        ["residual has shape (1, 8, 4, 4)", "x has no batch"],
    ),
    "residual dtype": (conv(X, W, residual=torch.ones(1).long()), DtypeError, ["residual has dtype int64"]),
    "activation": (conv(X, W, activation="rleu"), ArgumentError, ["'rleu'", "relu, gelu"]),
    "dtypes": (conv(X, W.double()), DtypeError, ["weight has dtype float64", "float32", "autocast"]),
    "complex": (conv(X.cfloat(), W.cfloat()), DtypeError, ["x has dtype complex64"]),
    "bool": (conv(X.bool(), W.bool()), DtypeError, ["x has dtype bool"]),
    "integer gelu": (conv(X.int(), W.int(), activation="gelu"), DtypeError, ["int32", "gelu"]),
    "integer dilated": (
        conv(X.int(), W.int(), dilation=2),
        DtypeError,
        ["int32", "dilation is (2, 2)", "long()"],
    ),
    "list": (conv([[1.0]], W), ArgumentError, ["x is of type list", "as_tensor"]),
    "none": (conv(X, None), ArgumentError, ["weight is of type NoneType"]),
    "bias list": (conv(X, W, [0.0] * 8), ArgumentError, ["bias is of type list"]),
    "sparse": (conv(X.to_sparse(), W), LayoutError, ["sparse_coo", "to_dense"]),
    "meta": (conv(X, W.to("meta")), DeviceError, ["weight is on meta", "cpu"]),
    "relu's name": (
        lambda: tilewright.conv2d_relu(X, W, groups=0),
        ArgumentError,
        ["conv2d_relu: groups is 0"],
    ),
    "dx rank": (dx(GRAD[0], W, [6, 6]), ShapeError, ["grad has shape (8, 4, 4)"]),
    "dx size": (dx(GRAD, W, [7, 6]), ShapeError, ["grad has shape (2, 8, 4, 4)", "(2, 8, 5, 4)"]),
    "dx of one size": (dx(GRAD, W, [6]), ArgumentError, ["size is (6,)", "two integers"]),
    "dx weight": (dx(GRAD, W[:4], [6, 6]), ShapeError, ["grad has shape", "(2, 4, 4, 4)"]),
    "dx integers": (dx(GRAD.int(), W.int(), [6, 6]), DtypeError, ["grad has dtype int32"]),
    "dx padding": (
        dx(GRAD, W, [6, 6], [1, 1], [0, 0], [1, 1], 1, False),
        ArgumentError,
        ["padding is (0, 0)"],
    ),
    "dw kernel": (dw(GRAD, X, [3, 2]), ShapeError, ["grad has shape", "(2, 8, 4, 5)"]),
    "dw batch": (dw(GRAD[:1], X, [3, 3]), ShapeError, ["grad has shape (1, 8, 4, 4)", "(2, 8, 4, 4)"]),
    "dw groups": (
        dw(GRAD, X, [3, 3], [1, 1], [0, 0, 0, 0], [1, 1], 3, False),
        ShapeError,
        ["x has shape (2, 4, 6, 6)", "3 groups divide"],
    ),
    "dw dtype": (dw(GRAD.double(), X, [3, 3]), DtypeError, ["x has dtype float32", "float64"]),
}


@pytest.mark.parametrize("name", BAD)
def test_says_what_is_wrong(name: str) -> None:
    call, kind, words = BAD[name]
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, tilewright.Error)
    assert message.startswith("conv2d")
    for word in words:
        assert word in message, message
    assert ";" in message, "no remedy"


@pytest.mark.parametrize("gradients", [False, True])
def test_checked_under_gradients_and_transforms_too(gradients: bool) -> None:
    x = X.clone().requires_grad_(gradients)
    with pytest.raises(ShapeError, match="weight has shape"):
        tilewright.conv2d(x, W[:, :3])
    with pytest.raises(ShapeError, match="weight has shape"):
        torch.vmap(lambda image: tilewright.conv2d(image, W[:, :3]))(X)
    with pytest.raises(ArgumentError, match="activation"):
        torch.func.grad(lambda x: tilewright.conv2d(x, W, activation="no").sum())(X)


def test_the_operation_checks_its_own_arguments() -> None:
    """Called past the public function, with lists of any length."""
    op = torch.ops.tilewright.conv2d
    for arguments, words in (
        ({"padding": [1, 1]}, r"padding is \(1, 1\)"),
        ({"stride": [1]}, r"stride is \(1,\)"),
        ({"stride": [1], "padding": [1, 0, 0, 0, 0]}, r"stride is \(1,\)"),
        ({"dilation": [1, 1, 1]}, r"dilation is \(1, 1, 1\)"),
        ({"groups": -1}, "groups is -1"),
    ):
        with pytest.raises(ArgumentError, match=words):
            op(X, W, **arguments)
    with pytest.raises(ShapeError, match=r"x has shape \(4, 6, 6\); expected \(N, C, H, W\);"):
        op(X[0], W)


def test_other_causes_speak_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast, operands of two dtypes are right: what fails then must not be blamed on them."""

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(importlib.import_module("tilewright.ops.conv2d"), "call", fail)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="out of memory"):
        tilewright.conv2d(X, W.bfloat16())
