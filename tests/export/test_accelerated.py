"""Accelerated models export, decompose, and run in ONNX Runtime, with eager's results."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tilewright
from tests.export.models import assert_equal, exported, operators
from tilewright.benchmark.models.shapes import LISTS, ModelShape


def made(name: str, batch: int = 3) -> tuple[nn.Module, nn.Module, Tensor]:
    """A small example model, the same accelerated, and what they take."""
    shape = ModelShape(name, batch, small=True)
    model, (x,) = shape.build(), shape.inputs()
    return model, tilewright.accelerate(model), x


@pytest.mark.parametrize(
    ("name", "strict"), [*((name, False) for name in LISTS), ("resnet18", True), ("vit", True)]
)
def test_exports_and_decomposes(name: str, strict: bool) -> None:
    model, fast, x = made(name)
    program = exported(fast, x, strict=strict)
    assert any("tilewright" in operator for operator in operators(program))
    plain = tilewright.decompose(program)
    assert not any("tilewright" in operator for operator in operators(plain))
    _, _, more = made(name, batch=5)
    expected = model(more)
    assert_equal(program.module()(more), expected)
    assert_equal(plain.module()(more), expected)


def test_a_saved_program_gives_the_same(tmp_path: Path) -> None:
    _, fast, x = made("vit")
    torch.export.save(tilewright.decompose(exported(fast, x)), tmp_path / "model.pt2")
    assert_equal(torch.export.load(tmp_path / "model.pt2").module()(x), fast(x))


@pytest.mark.parametrize("name", ["resnet18", "bert_base", "vit"])
def test_onnx_runtime_computes_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    pytest.importorskip("onnxruntime", reason="it runs the exported models")
    from tests.export.onnx import converted, kinds, run

    model, fast, x = made(name)
    program = converted(tilewright.decompose(exported(fast, x)))
    found = kinds(program)
    if name == "resnet18":
        assert found["Conv"] == sum(isinstance(module, nn.Conv2d) for module in model.modules())
        assert found["Gemm"] == 1
        assert found["BatchNormalization"] == 0, "the exporter folds them into the convolutions"
    _, _, more = made(name, batch=5)
    assert_equal(run(program, more, tmp_path / "model.onnx"), model(more))
