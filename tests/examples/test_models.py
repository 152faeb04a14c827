"""The example models are the architectures that they say, seeded, and numerically tame."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tilewright.examples.models import MODELS, example_inputs

_SMALL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "resnet18": ({"width": 8}, {"image_size": 64}),
    "resnet50": ({"width": 8}, {"image_size": 64}),
    "vgg11": ({"width": 8, "hidden": 32, "image_size": 32}, {"image_size": 32}),
    "mobilenet_v2": ({"width": 0.25}, {"image_size": 64}),
    "bert_base": (
        {"width": 64, "heads": 4, "hidden": 256, "vocabulary": 50},
        {"tokens": 20, "vocabulary": 50},
    ),
    "vit": ({"width": 64, "heads": 4, "hidden": 256, "image_size": 32}, {"image_size": 32}),
}


def _small(name: str, seed: int = 0) -> nn.Module:
    return MODELS[name](**_SMALL[name][0], seed=seed).eval()


def _inputs(name: str, batch: int = 2) -> tuple[Tensor, ...]:
    return example_inputs(name, batch, **_SMALL[name][1])


def test_every_model_is_tested() -> None:
    assert set(_SMALL) == set(MODELS)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # as published with the papers' reference implementations
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("vgg11", 132_863_336),
        ("mobilenet_v2", 3_504_872),
        ("vit", 86_567_656),
        # BERT-base has 109 482 240, of which segments and pooler, which this encoder has not, are 1536 and 590 592.
        ("bert_base", 109_482_240 - 1536 - 590_592),
    ],
)
def test_sizes_are_the_papers(name: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in MODELS[name]().parameters()) == parameters


@pytest.mark.parametrize("name", MODELS)
def test_activations_stay_of_order_one(name: str) -> None:
    model = _small(name)
    seen: list[tuple[str, float]] = []

    def look(where: str) -> Any:
        return lambda module, inputs, output: seen.append((where, float(output.std())))

    for where, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(look(where))
    with torch.inference_mode():
        y = model(*_inputs(name))
    assert y.shape[0] == 2
    assert len(seen) > 10
    for where, spread in seen:
        assert 0.05 < spread < 10, where


@pytest.mark.parametrize("name", MODELS)
def test_parameters_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = _small(name).state_dict()
    torch.manual_seed(2)
    again, other = _small(name).state_dict(), _small(name, seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_no_batch_norm_is_the_identity(name: str) -> None:
    norms = [module for module in _small(name).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        for values, trivial in (
            (norm.running_mean, 0),
            (norm.running_var, 1),
            (norm.weight, 1),
            (norm.bias, 0),
        ):
            assert values is not None
            assert (values != trivial).any()


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = _small(name).train()
    model(*_inputs(name)).square().mean().backward()
    for where, parameter in model.named_parameters():
        assert parameter.grad is not None, where
        assert torch.isfinite(parameter.grad).all(), where
        # The keys' bias shifts all of a query's scores alike, which softmax does not see.
        assert parameter.grad.abs().sum() > 0 or where.endswith("key.bias"), where


def test_padding_does_not_reach_the_tokens() -> None:
    model = _small("bert_base")
    (ids,) = _inputs("bert_base")
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 15:] = False
    changed = torch.where(mask, ids, (ids + 1) % 50)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids, mask)[:, :15], model(changed, mask)[:, :15])
        assert not torch.allclose(model(ids)[:, :15], model(changed)[:, :15])


def test_inputs_depend_on_the_seed() -> None:
    (first,), (again,) = example_inputs("vit", 2, image_size=8), example_inputs("vit", 2, image_size=8)
    (other,) = example_inputs("vit", 2, image_size=8, seed=1)
    assert first.shape == (2, 3, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match=r"resnet34.*expected one of resnet18"):
        example_inputs("resnet34")
