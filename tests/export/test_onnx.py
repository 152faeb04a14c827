"""The road to ONNX: what tilewright.decompose returns converts, and ONNX Runtime computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import tilewright
from tests.export.models import MODELS, assert_equal, exported
from tests.export.onnx import converted, kinds, run

pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
pytest.importorskip("onnxruntime", reason="it runs the exported models")


@pytest.mark.parametrize("name", MODELS)
def test_onnx_runtime_computes_the_same(name: str, tmp_path: Path) -> None:
    kind, shape = MODELS[name]
    model = kind().eval()
    program = converted(tilewright.decompose(exported(model, torch.randn(shape))))
    assert {node.domain for node in program.model_proto.graph.node} == {""}, "standard operators alone"
    x = torch.randn(7, *shape[1:])
    with torch.no_grad():
        assert_equal(run(program, x, tmp_path / "model.onnx"), model(x))


def test_layers_become_single_nodes() -> None:
    kind, shape = MODELS["images"]
    found = kinds(converted(tilewright.decompose(exported(kind().eval(), torch.randn(shape)))))
    assert found["Conv"] == 8
    assert found["Gemm"] + found["MatMul"] == 2
    assert found["Relu"] == 3
    assert "Transpose" not in found


def test_the_graph_is_that_of_torchs_own_layers() -> None:
    ours = nn.Sequential(
        tilewright.nn.Conv2d(3, 4, 3, padding=1, activation="relu"),
        nn.Flatten(),
        tilewright.nn.Linear(64, 10, activation="relu"),
        tilewright.nn.Linear(10, 3),
    )
    theirs = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 3)
    )
    x = torch.randn(2, 3, 4, 4)
    programs = [converted(tilewright.decompose(exported(model.eval(), x))) for model in (ours, theirs)]
    assert kinds(programs[0]) == kinds(programs[1])
    assert kinds(programs[0])["Gemm"] == 2
