"""tilewright.decompose: plain ATen, the same results, and what converters look for left whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tilewright
from tests.export.models import MODELS, Images, assert_equal, exported, operators
from tilewright import export
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.nn import Conv2d, Linear

every_model = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> tuple[nn.Module, Tensor]:
    kind, shape = MODELS[name]
    return kind().eval(), torch.randn(shape)


@every_model
@pytest.mark.parametrize("strict", [False, True])
def test_results_are_those_of_eager_for_every_batch(name: str, strict: bool) -> None:
    model, x = made(name)
    program = exported(model, x, strict=strict)
    assert any("tilewright" in operator for operator in operators(program))
    before = operators(program)
    plain = tilewright.decompose(program)
    assert operators(plain)
    assert not any("tilewright" in operator for operator in operators(plain))
    assert operators(program) == before, "the program that was given stays as it is"
    for batch in (4, 2, 9):
        more = torch.randn(batch, *x.shape[1:])
        assert_equal(program.module()(more), model(more))
        assert_equal(plain.module()(more), model(more))
    assert plain.state_dict.keys() == model.state_dict().keys()


def test_layers_become_what_torchs_layers_export_to() -> None:
    model, x = made("images")
    found = Counter(operators(tilewright.decompose(exported(model, x))))
    assert found["aten.conv2d.default"] == 8
    assert found["aten.linear.default"] == 2
    assert found["aten.relu.default"] == 3
    assert found["aten.gelu.default"] == 2
    assert found["aten.silu.default"] == 1
    for whole in ("aten.t.default", "aten.convolution.default", "aten.matmul.default", "aten.erf.default"):
        assert whole not in found


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("last", [False, True])
def test_a_convolution_is_one_operator_and_its_activation_another(activation: str, last: bool) -> None:
    layer, x = Conv2d(3, 6, 3, padding=1, activation=activation).eval(), torch.randn(2, 3, 8, 8)
    if last:
        layer, x = layer.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    plain = tilewright.decompose(exported(layer, x))
    names = [name.split(".")[1] for name in operators(plain)]
    assert names == ["conv2d"] + ([] if activation == "none" else [activation.removesuffix("_tanh")])
    y = plain.module()(x)
    torch.testing.assert_close(y, layer(x))
    assert y.stride() == layer(x).stride()


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_one_operator_for_inputs_of_any_rank(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = Linear(5, 4, bias=bias).eval(), torch.randn(shape)
    plain = tilewright.decompose(exported(layer, x, dynamic=False))
    assert operators(plain) == ["aten.linear.default"]
    (node,) = plain.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    assert [argument.op for argument in node.args] == ["placeholder"] * (3 if bias else 2)
    torch.testing.assert_close(plain.module()(x), layer(x))


def test_a_product_of_two_activations_stays_a_product() -> None:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return tilewright.matmul(a, b)

    a, b = torch.randn(3, 4), torch.randn(4, 5)
    plain = tilewright.decompose(torch.export.export(Product(), (a, b)))
    assert operators(plain) == ["aten.matmul.default"]
    torch.testing.assert_close(plain.module()(a, b), a @ b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    layer, x = Linear(8, 6, activation="gelu", dtype=dtype).eval(), torch.randn(4, 8, dtype=dtype)
    residual = torch.randn(4, 6, dtype=dtype)
    plain = tilewright.decompose(torch.export.export(layer, (x, residual)))
    y = plain.module()(x, residual)
    assert y.dtype == dtype
    # Plain ATen rounds after each of its operators.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y, layer(x, residual), rtol=4 * eps, atol=4 * eps)


def test_an_output_of_another_dtype_is_not_rounded_on_the_way() -> None:
    class Wider(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return tilewright.matmul(a, b.t(), out_dtype=torch.float32)

    a, b = torch.randn(3, 64).bfloat16(), torch.randn(4, 64).bfloat16()
    plain = tilewright.decompose(torch.export.export(Wider(), (a, b)))
    torch.testing.assert_close(plain.module()(a, b), a.float() @ b.float().t())


def test_operations_inside_control_flow_are_found() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear(4, 4, activation="relu")

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = torch.cond(x.sum() > 0, lambda x: self.layer(x), lambda x: x - self.layer(x), (x,))
            return y

    model, x = Branches().eval().requires_grad_(False), torch.randn(3, 4)
    program = torch.export.export(model, (x,))
    assert sum("tilewright" in operator for operator in operators(program)) == 2
    plain = tilewright.decompose(program)
    assert not any("tilewright" in operator for operator in operators(plain))
    for sign in (1, -1):
        chosen = x.abs() * sign
        torch.testing.assert_close(plain.module()(chosen), model(chosen))


def test_gradients_flow_through_a_decomposed_program() -> None:
    model, x = made("images")
    plain = tilewright.decompose(exported(model, x)).module()
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    found = torch.autograd.grad(plain(x).square().sum(), list(plain.parameters()))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_other_operators_stay_as_torch_leaves_them() -> None:
    model, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 2)),
        torch.randn(2, 3, 4, 4),
    )
    program = exported(model, x, dynamic=False)
    assert operators(tilewright.decompose(program)) == operators(program.run_decompositions({}))


def test_a_saved_program_loads_and_runs_without_tilewright(tmp_path: Path) -> None:
    model, x = made("images")
    torch.export.save(tilewright.decompose(exported(model, x)), tmp_path / "model.pt2")
    with torch.no_grad():
        torch.save((x, model(x)), tmp_path / "example.pt")
    code = (
        "import sys, torch\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "x, expected = torch.load(sys.argv[2])\n"
        "torch.testing.assert_close(program(x), expected)\n"
        "assert not any(name.split('.')[0] == 'tilewright' for name in sys.modules)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [sys.executable, "-c", code, str(tmp_path / "model.pt2"), str(tmp_path / "example.pt")]
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_a_program_with_our_operations_saves_and_loads_too(tmp_path: Path) -> None:
    model, x = made("rows")
    torch.export.save(exported(model, x), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    assert_equal(loaded.module()(x), model(x))
    assert_equal(tilewright.decompose(loaded).module()(x), model(x))


@pytest.mark.parametrize("given", [Images(), None, lambda x: x], ids=["module", "none", "function"])
def test_what_is_no_program_is_refused(given: Any) -> None:
    with pytest.raises(
        tilewright.errors.ArgumentError, match=r"decompose: exported_program is of type \w+; expected"
    ):
        tilewright.decompose(given)


def test_an_operation_that_remains_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_table", dict)
    layer, x = Linear(5, 4).eval(), torch.randn(3, 5)
    with pytest.raises(
        tilewright.Error, match=r"tilewright::matmul\S* remained in the program; expected a decomp"
    ):
        tilewright.decompose(exported(layer, x))
