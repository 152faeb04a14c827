"""Which nodes are taken into one operation, and that the result is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.compiler.support import assert_as_good, check, compiled, fused, left, randomized, wide

F = nn.functional

_X, _W, _BIAS = torch.randn(6, 12), torch.randn(7, 12), torch.randn(7)
_IMAGES, _FILTERS, _CHANNELS = torch.randn(2, 4, 9, 8), torch.randn(6, 4, 3, 3), torch.randn(6)

_FUSED: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...], str]] = {
    "linear": (F.linear, (_X, _W), "mm -> tilewright.matmul()"),
    "linear, bias, relu": (
        lambda x, w, b: F.relu(F.linear(x, w, b)),
        (_X, _W, _BIAS),
        "addmm relu -> tilewright.matmul(bias, relu)",
    ),
    "relu in place": (
        lambda x, w, b: F.linear(x, w, b).relu_(),
        (_X, _W, _BIAS),
        "addmm relu -> tilewright.matmul(bias, relu)",
    ),
    "gelu of rows of rows": (
        lambda x, w, b: F.gelu(F.linear(x, w, b)),
        (_X.view(2, 3, 12), _W, _BIAS),
        "addmm view gelu -> tilewright.matmul(bias, gelu)",
    ),
    "gelu_tanh": (
        lambda x, w: F.gelu(x @ w.t(), approximate="tanh"),
        (_X, _W),
        "mm gelu -> tilewright.matmul(gelu_tanh)",
    ),
    "residual on the left": (
        lambda x, w, b, r: F.silu(r + F.linear(x, w, b)),
        (_X, _W, _BIAS, torch.randn(6, 7)),
        "addmm add silu -> tilewright.matmul(bias, residual, silu)",
    ),
    "residual of rows of rows": (
        lambda x, w, b, r: F.linear(x, w, b) + r,
        (_X.view(2, 3, 12), _W, _BIAS, torch.randn(2, 3, 7)),
        "addmm view add -> tilewright.matmul(bias, residual)",
    ),
    "residual broadcast over a batch": (
        lambda x, w, b, r: F.relu(F.linear(x, w, b) + r),
        (_X.view(2, 3, 12), _W, _BIAS, torch.randn(3, 7)),
        "addmm view add relu -> tilewright.matmul(bias, residual, relu)",
    ),
    "bias added by hand": (
        lambda x, w, b: F.relu(torch.matmul(x, w.t()) + b),
        (_X.view(1, 6, 12), _W, _BIAS),
        "mm view add relu -> tilewright.matmul(bias, relu)",
    ),
    "a matrix for a bias": (
        lambda x, w, r: torch.addmm(r, x, w.t()),
        (_X, _W, torch.randn(6, 7)),
        "addmm -> tilewright.matmul(residual)",
    ),
    "columns of one value": (
        lambda x, w, r: torch.addmm(r, x, w.t()).relu(),
        (_X, _W, torch.randn(6, 1)),
        "addmm relu -> tilewright.matmul(residual, relu)",
    ),
    "bmm": (torch.bmm, (torch.randn(3, 4, 5), torch.randn(3, 5, 6)), "bmm -> tilewright.matmul()"),
    "baddbmm": (
        lambda r, a, b: torch.baddbmm(r, a, b).relu(),
        (torch.randn(3, 1, 6), torch.randn(3, 4, 5), torch.randn(3, 5, 6)),
        "baddbmm relu -> tilewright.matmul(residual, relu)",
    ),
    "heads of rows": (
        lambda a, b, r: torch.matmul(a, b) + r,
        (torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5, 6), torch.randn(2, 3, 4, 6)),
        "bmm view add -> tilewright.matmul(residual)",
    ),
    "conv2d": (F.conv2d, (_IMAGES, _FILTERS), "convolution -> tilewright.conv2d()"),
    "conv2d, bias, gelu": (
        lambda x, w, b: F.gelu(F.conv2d(x, w, b, stride=2, padding=(1, 0))),
        (_IMAGES, _FILTERS, _CHANNELS),
        "convolution gelu -> tilewright.conv2d(bias, gelu)",
    ),
    "residual and relu in place": (
        lambda x, w, b, r: F.relu(F.conv2d(x, w, b).add_(r), inplace=True),
        (_IMAGES, _FILTERS, _CHANNELS, torch.randn(2, 6, 7, 6)),
        "convolution add relu -> tilewright.conv2d(bias, residual, relu)",
    ),
    "a value per channel": (
        lambda x, w, r: F.silu(F.conv2d(x, w) + r),
        (_IMAGES, _FILTERS, torch.randn(6, 1, 1)),
        "convolution add silu -> tilewright.conv2d(residual, silu)",
    ),
    "one image": (
        lambda x, w, b: F.relu(F.conv2d(x, w, b)),
        (_IMAGES[0], _FILTERS, _CHANNELS),
        "convolution -> tilewright.conv2d(bias)",
    ),
    "depthwise": (
        lambda x, w: F.relu(F.conv2d(x, w, groups=4, padding=1)),
        (_IMAGES, torch.randn(4, 1, 3, 3)),
        "convolution relu -> tilewright.conv2d(relu)",
    ),
    "grouped, dilated": (
        lambda x, w: F.relu(F.conv2d(x, w, groups=2, dilation=2, padding="same")),
        (_IMAGES, torch.randn(6, 2, 3, 3)),
        "convolution relu -> tilewright.conv2d(relu)",
    ),
}


@pytest.mark.parametrize("name", _FUSED)
def test_becomes_one_operation(name: str) -> None:
    function, args, expected = _FUSED[name]
    run = compiled(function)
    with torch.no_grad():
        assert_as_good(run(*args), function(*args), function(*wide(args)))
    assert fused() == [expected]


_NOT: dict[str, tuple[Callable[..., Any], tuple[Any, ...], list[str]]] = {
    "the sum is used twice": (
        lambda x, w: (F.linear(x, w) + 1, F.linear(x, w).relu().sum()),
        (_X, _W),
        ["mm -> tilewright.matmul()", "mm relu -> tilewright.matmul(relu)"],
    ),
    "product used before and after relu, kept": (
        lambda x, w: (lambda z: z.relu() + z)(x @ w.t()),
        (_X, _W),
        ["mm relu -> tilewright.matmul_with_preact(relu)"],
    ),
    "product returned beside its relu": (
        lambda x, w: (lambda z: (z, z.relu()))(F.conv2d(x, w)),
        (_IMAGES, _FILTERS),
        ["convolution relu -> tilewright.conv2d_with_preact(relu)"],
    ),
    "scaled sum": (
        lambda x, w, r: torch.add(x @ w.t(), r, alpha=2),
        (_X, _W, torch.randn(6, 7)),
        ["mm -> tilewright.matmul()"],
    ),
    "a number is added": (lambda x, w: (x @ w.t()) + 1, (_X, _W), ["mm -> tilewright.matmul()"]),
    "the product broadcasts": (
        lambda x, w, r: (x @ w.t()) + r,
        (_X, _W, torch.randn(4, 6, 7)),
        ["mm -> tilewright.matmul()"],
    ),
    "relu before the sum": (
        lambda x, w, r: (x @ w.t()).relu() + r,
        (_X, _W, torch.randn(6, 7)),
        ["mm relu -> tilewright.matmul(relu)"],
    ),
    "two products are added": (
        lambda x, w, v: F.relu(F.conv2d(x, w) + F.conv2d(x, v)),
        (_IMAGES, _FILTERS, torch.randn(6, 4, 3, 3)),
        ["convolution -> tilewright.conv2d()", "convolution add relu -> tilewright.conv2d(residual, relu)"],
    ),
    "another dtype is added": (
        lambda x, w, r: (x @ w.t()) + r,
        (_X.bfloat16(), _W.bfloat16(), torch.randn(6, 7)),
        ["mm -> tilewright.matmul()"],
    ),
    "transposed before the sum": (
        lambda x, w, r: (x @ w.t()).t() + r,
        (_X, _W, torch.randn(7, 6)),
        ["mm -> tilewright.matmul()"],
    ),
}


@pytest.mark.parametrize("name", _NOT)
def test_takes_no_more_than_it_may(name: str) -> None:
    function, args, expected = _NOT[name]
    run = compiled(function)
    with torch.no_grad():
        assert_as_good(run(*args), function(*args), function(*wide(args)))
    assert fused() == expected


_LEFT: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "transposed": (
        F.conv_transpose2d,
        (_IMAGES, torch.randn(4, 6, 3, 3)),
        "convolution: it is a transposed convolution",
    ),
    "1-D": (F.conv1d, (torch.randn(2, 4, 9), torch.randn(6, 4, 3)), "convolution: it is no 2-D convolution"),
    "float64": (torch.mm, (_X.double(), _W.double().t()), "mm: its dtype is float64"),
    "scaled": (
        lambda r, x, w: torch.addmm(r, x, w.t(), beta=2),
        (torch.randn(6, 7), _X, _W),
        "addmm: it scales its operands (alpha, beta)",
    ),
    "empty": (torch.mm, (_X[:0], _W.t()), "mm: it is empty, of shape (0, 7)"),
}


@pytest.mark.parametrize("name", _LEFT)
def test_leaves_what_it_does_not_compute_and_says_why(name: str) -> None:
    function, args, reason = _LEFT[name]
    run = compiled(function)
    with torch.no_grad():
        torch.testing.assert_close(run(*args), function(*args))
    assert left() == [reason]


def test_complex_products_are_left() -> None:
    a, b = torch.randn(3, 4, dtype=torch.complex64), torch.randn(4, 5, dtype=torch.complex64)
    run = compiled(torch.mm)
    torch.testing.assert_close(run(a, b), a @ b)
    assert left() == ["mm: its dtype is complex64"]


class _Residual(nn.Module):
    """conv, bn, relu, conv, bn, + shortcut (conv, bn), relu."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(4, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)), inplace=True)
        y = self.norms[1](self.second(y))
        y += self.norms[2](self.shortcut(x))
        return F.relu(y, inplace=True)


def test_a_residual_block_in_inference_is_three_operations() -> None:
    module = randomized(_Residual()).eval()
    check(module, _IMAGES)
    norm = "_native_batch_norm_legit_no_training"
    assert fused() == [
        f"convolution {norm} relu -> tilewright.conv2d(bias, relu)",
        f"convolution {norm} -> tilewright.conv2d(bias)",
        f"convolution {norm} add relu -> tilewright.conv2d(bias, residual, relu)",
    ]


def test_the_layout_of_outputs_is_that_of_torch() -> None:
    module = randomized(_Residual()).eval()
    run = compiled(module)
    with torch.no_grad():
        for x in (_IMAGES, _IMAGES.to(memory_format=torch.channels_last)):
            assert run(x).stride() == module(x).stride()
            assert run(x)[:, :, 0].stride() == module(x)[:, :, 0].stride()


def test_batch_norm_after_a_linear_layer() -> None:
    module = randomized(nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU())).eval()
    check(module, _X)
    assert fused() == ["addmm _native_batch_norm_legit_no_training relu -> tilewright.matmul(bias, relu)"]


@pytest.mark.parametrize("case", ["shared", "first", "training"])
def test_batch_norms_that_cannot_be_folded(case: str) -> None:
    conv, norm = nn.Conv2d(4, 4, 1), randomized(nn.Sequential(nn.BatchNorm2d(4)))

    def run(x: Tensor) -> Tensor:
        if case == "first":
            return conv(norm(x))
        y = conv(x)
        return norm(y) + y

    norm.train(case == "training")
    fast = compiled(run)
    with torch.no_grad():
        expected = run(_IMAGES)
        torch.testing.assert_close(fast(_IMAGES), expected)
    assert fused() == ["convolution -> tilewright.conv2d(bias)"]


def test_attention_keeps_its_softmax() -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) + mask, -1) @ v

    q, k, v = (torch.randn(2, 3, 5, 4) for _ in range(3))
    mask = torch.randn(2, 1, 1, 5)
    fast = compiled(attention)
    with torch.no_grad():
        assert_as_good(
            fast(q, k, v, mask),
            attention(q, k, v, mask),
            attention(*(each.double() for each in (q, k, v, mask))),
        )
    assert sorted(fused()) == ["bmm -> tilewright.matmul()"] * 2


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes(mode: str) -> None:
    module = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, padding_mode=mode), nn.ReLU())
    check(module, _IMAGES)
    assert fused() == ["convolution relu -> tilewright.conv2d(bias, relu)"]


def test_specials_are_those_of_torch() -> None:
    x = torch.randn(5, 4)
    x[0, 0], x[1, 1] = float("nan"), float("inf")
    w = torch.randn(3, 4)

    def run(x: Tensor, w: Tensor) -> Tensor:
        return F.relu(F.linear(x, w))

    torch.testing.assert_close(compiled(run)(x, w), run(x, w), equal_nan=True)
