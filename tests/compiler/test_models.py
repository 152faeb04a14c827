"""Whole models, made small: outputs of the compiled model are those of eager torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tilewright
from tests.compiler.support import assert_as_good, compiled, wide
from tilewright.examples import models

_SMALL: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    # arguments of the builder, of the inputs, and how many products the model has
    "resnet18": ({"num_classes": 5, "width": 8}, {"image_size": 32}, 21),
    "mobilenet_v2": ({"num_classes": 5, "width": 0.25}, {"image_size": 32}, 53),
    "bert_base": (
        {"layers": 2, "width": 32, "heads": 4, "hidden": 64, "vocabulary": 50},
        {"tokens": 10, "vocabulary": 50},
        12,
    ),
}


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("name", _SMALL)
def test_models(name: str, freeze: bool) -> None:
    arguments, sizes, products = _SMALL[name]
    model = models.MODELS[name](**arguments).eval()
    inputs = models.example_inputs(name, 2, **sizes)
    run = compiled(model, freeze=freeze)
    with torch.no_grad():
        assert_as_good(run(*inputs), model(*inputs), wide(model)(*wide(inputs)))
    report = tilewright.compiler.report()
    assert len(report.fused) == products
    assert report.left == []


@pytest.mark.parametrize("freeze", [False, True])
def test_autocast_of_a_model_with_batch_norms(freeze: bool) -> None:
    arguments, sizes, products = _SMALL["resnet18"]
    model = models.resnet18(**arguments).eval()
    inputs = models.example_inputs("resnet18", 2, **sizes)
    run = compiled(model, freeze=freeze)
    exact = wide(model)(*wide(inputs))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert_as_good(run(*inputs), model(*inputs), exact)
    report = tilewright.compiler.report()
    assert len(report.fused) == products
    assert any("add + relu" in " + ".join(each.nodes) for each in report.fused)
