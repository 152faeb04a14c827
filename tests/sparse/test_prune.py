"""Whole models: scopes, scores, which weights, the report."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tilewright
from tilewright.errors import ArgumentError, DtypeError, Error, ShapeError
from tilewright.sparse import mask_for, prune, report, wanda_scores


def _model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    )


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("weight")}


@pytest.mark.parametrize(("pattern", "amount"), [("unstructured", 0.9), ("2:4", None), ("block(4, 4)", 0.5)])
def test_each_layer_gets_its_own_mask(pattern: str, amount: float | None) -> None:
    model = _model()
    before = _weights(model)
    parameters = dict(model.named_parameters())
    pruning = prune(model, pattern, amount)
    assert list(pruning.masks) == list(before)
    assert pruning.share == 1.0
    for name, weight in before.items():
        mask = mask_for(weight, pattern, amount)
        assert torch.equal(pruning.masks[name], mask)
        assert torch.equal(parameters[name], weight * mask)
    assert dict(model.named_parameters()) == parameters
    assert sorted(model.state_dict()) == sorted(_model().state_dict())


@pytest.mark.parametrize("amount", [0.0, 0.3, 0.9, 1.0, 17])
def test_global_is_exact_over_all_layers(amount: float) -> None:
    model = _model()
    before = _weights(model)
    masks = prune(model, "unstructured", amount, scope="global").masks
    total = sum(weight.numel() for weight in before.values())
    count = amount if isinstance(amount, int) else round(amount * total)
    assert sum(int((~mask).sum()) for mask in masks.values()) == count
    kept = torch.cat([before[name][mask] for name, mask in masks.items()]).abs()
    gone = torch.cat([before[name][~mask] for name, mask in masks.items()]).abs()
    assert not len(kept) or not len(gone) or kept.min() >= gone.max()


def test_global_of_2_to_4_thins_out_further_where_scores_are_lowest() -> None:
    model = _model()
    with torch.no_grad():
        model[5].weight.mul_(100.0)
    own = {name: mask_for(weight, "2:4") for name, weight in _weights(model).items()}
    masks = prune(model, "2:4", 0.8, scope="global").masks
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.8 * total)
    assert all(not bool((masks[name] & ~mask).any()) for name, mask in own.items())
    assert torch.equal(masks["5.weight"], own["5.weight"])


def test_global_counts_units_of_channels() -> None:
    model = _model()
    masks = prune(model, "channel", 11, scope="global").masks
    assert sum(int((~mask.flatten(1)[:, 0]).sum()) for mask in masks.values()) == 11
    assert all(torch.equal(mask.flatten(1).all(1), mask.flatten(1).any(1)) for mask in masks.values())


def test_rows_lose_the_same_each() -> None:
    model = _model()
    masks = prune(model, "unstructured", 0.5, scope="row").masks
    for name, weight in _weights(_model()).items():
        rows = (~masks[name]).flatten(1).sum(1)
        assert torch.equal(rows, torch.full_like(rows, round(0.5 * weight[0].numel())))


def test_float16_and_float64_layers_together() -> None:
    model = nn.ModuleList([nn.Linear(6, 6).half(), nn.Linear(6, 6).double()])
    masks = prune(model, "unstructured", 0.5, scope="global").masks
    assert sum(int(mask.sum()) for mask in masks.values()) == 36


def test_which_weights() -> None:
    model = _model()
    dense = _weights(model)
    assert list(prune(model, "unstructured", 0.5, weights=["3.*"]).masks) == ["3.weight"]
    assert torch.equal(model[5].weight, dense["5.weight"])
    assert list(prune(model, "unstructured", 0.5, skip=["0.weight", "5*"]).masks) == ["3.weight"]
    assert list(prune(model, "unstructured", 0.5, weights=["5.bias", "0.weight"]).masks) == [
        "0.weight",
        "5.bias",
    ]
    with pytest.raises(ArgumentError, match=r"'7\.weight'"):
        prune(model, "unstructured", 0.5, weights=["7.weight"])
    with pytest.raises(ArgumentError, match="'head"):
        prune(model, "unstructured", 0.5, skip=["head*"])
    with pytest.raises(ArgumentError, match="no weight to be pruned"):
        prune(nn.ReLU(), "unstructured", 0.5)


def test_a_shared_weight_is_pruned_once() -> None:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = layer.weight
    assert list(prune(model, "unstructured", 0.5, scope="global").masks) == ["0.weight"]
    assert int((layer.weight == 0).sum()) == 32


def test_a_transposed_weight_is_pruned_along_its_inputs() -> None:
    layer = tilewright.nn.Conv1D(6, 12)
    expected = mask_for(layer.weight.detach().t(), "2:4")
    assert torch.equal(prune(layer, "2:4").masks["weight"], expected.t())
    assert report(layer).layers[0].pattern == "2:4"


def test_packed_layers_use_the_pruned_weight() -> None:
    layer = tilewright.nn.Linear(64, 32).eval()
    x = torch.randn(4, 64)
    with torch.no_grad():
        layer(x)
        layer.pack()
        prune(layer, "unstructured", 0.5)
        torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))


def test_what_is_no_plain_parameter() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    with pytest.raises(ArgumentError, match=r"weight is no plain parameter.*remove_parametrizations"):
        prune(normed, "2:4")
    with pytest.raises(ArgumentError, match="lazy"):
        prune(nn.LazyLinear(4), "2:4")
    with pytest.raises(ArgumentError, match="scope is 'all'"):
        prune(_model(), "unstructured", 0.5, scope="all")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="'unstructured'; 2:4"):
        prune(_model(), "2:4", scope="row")
    with pytest.raises(ArgumentError, match="from 0 to 100 as an int"):
        prune(_model(), "unstructured", 101, weights=["5.weight"])


@pytest.mark.parametrize("arguments", [("two",), ("block(4, 4)", 0.5), ("unstructured", 99)])
def test_an_error_leaves_the_model_as_it_was(arguments: tuple[Any, ...]) -> None:
    model = nn.Sequential(nn.Linear(12, 12), nn.Linear(3, 3))
    dense = _weights(model)
    with pytest.raises(Error):
        prune(model, *arguments, weights=["*", "1.bias"])
    assert all(torch.equal(weight, dense[name]) for name, weight in _weights(model).items())


# --- scores -------------------------------------------------------------------------------------------------------


def test_functions_and_mappings_as_scores() -> None:
    model = _model()
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    taylor = {f"{i}.weight": (model[i].weight * model[i].weight.grad).abs().detach() for i in (0, 3, 5)}
    expected = {name: mask_for(scores, "unstructured", 0.5) for name, scores in taylor.items()}

    def first_order(weight: Tensor) -> Tensor:
        assert weight.grad is not None
        return (weight * weight.grad).abs()

    by_name = prune(_copy(model), "unstructured", 0.5, score=taylor).masks
    by_function = prune(model, "unstructured", 0.5, score=first_order).masks
    assert all(torch.equal(by_name[name], mask) for name, mask in expected.items())
    assert all(torch.equal(by_function[name], mask) for name, mask in expected.items())


def _copy(model: nn.Module) -> nn.Module:
    fresh = _model()
    fresh.load_state_dict(model.state_dict())
    return fresh


def test_scores_that_are_none() -> None:
    with pytest.raises(ArgumentError, match="'huge'"):
        prune(_model(), "2:4", score="huge")
    with pytest.raises(ShapeError, match=r"expected a tensor of the weight's shape \(8, 3, 3, 3\)"):
        prune(_model(), "2:4", score=lambda weight: weight[0])
    with pytest.raises(DtypeError, match="complex64"):
        prune(_model(), "2:4", score=lambda weight: weight.to(torch.complex64))
    with pytest.raises(ArgumentError, match=r"score has no 0\.weight"):
        prune(_model(), "2:4", score={})
    with pytest.raises(ArgumentError, match="needs batches"):
        prune(_model(), "2:4", score="wanda")
    with pytest.raises(ArgumentError, match="looks at no batches"):
        prune(_model(), "2:4", batches=[torch.ones(1, 3, 4, 4)])
    with pytest.raises(ArgumentError, match="batches is empty"):
        prune(_model(), "2:4", score="wanda", batches=[])
    with pytest.raises(ArgumentError, match="needs a module"):
        prune(torch.randn(4, 4), "2:4", score="wanda", batches=[torch.randn(1, 4)])


def test_wanda_of_a_linear_layer_is_the_papers() -> None:
    layer = nn.Linear(12, 6)
    batches = [torch.randn(3, 5, 12), torch.randn(1, 2, 12)]
    x = torch.cat([batch.reshape(-1, 12) for batch in batches])
    expected = layer.weight.detach().abs() * x.norm(dim=0)
    torch.testing.assert_close(wanda_scores(layer, batches)["weight"], expected)
    pruned = prune(layer, "unstructured", 0.5, score="wanda", scope="row", batches=batches)
    kept = expected.argsort(dim=1, descending=True)[:, :6].sort(dim=1).values
    assert torch.equal(pruned.masks["weight"].nonzero()[:, 1].reshape(6, 6), kept)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"padding": 1}, (9, 7)),
        ({"stride": 2, "dilation": (1, 2), "groups": 2}, (11, 12)),
        ({"padding": "same", "padding_mode": "circular"}, (6, 6)),
        ({"padding": (2, 0), "padding_mode": "reflect", "stride": (3, 1)}, (8, 5)),
    ],
)
def test_wanda_of_a_convolution_has_a_norm_per_kernel_position(
    options: dict[str, Any], size: tuple[int, int]
) -> None:
    layer = nn.Conv2d(4, 6, 3, bias=False, **options).double()
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    found = wanda_scores(layer, [x])["weight"] / layer.weight.detach().abs()
    # Each position's inputs are what a kernel with a single one there hands on.
    groups = layer.groups
    for i in range(4 // groups):
        for tap in range(9):
            probe = nn.Conv2d(4, groups, 3, bias=False, **options).double()
            with torch.no_grad():
                probe.weight.zero_()
                probe.weight[:, i, tap // 3, tap % 3] = 1.0
                norms = probe(x).square().sum((0, 2, 3)).sqrt()
            expected = norms.repeat_interleave(6 // groups)
            torch.testing.assert_close(found[:, i, tap // 3, tap % 3], expected)


def test_calibration_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))
    model[2].eval()
    model.train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wanda_scores(model, [torch.randn(8, 4)])
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_batches_of_several_arguments() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            y: Tensor = self.inner(input=a + b)
            return y

    model, a, b = Sum(), torch.randn(5, 4), torch.randn(5, 4)
    once = wanda_scores(model, [(a, b)])["inner.weight"]
    assert torch.equal(once, wanda_scores(model, [{"a": a, "b": b}])["inner.weight"])
    assert torch.equal(once, wanda_scores(model.inner, [a + b])["weight"])


def test_a_layer_that_is_never_called_is_named() -> None:
    model = nn.MultiheadAttention(8, 2)
    x = torch.randn(3, 1, 8)
    with pytest.raises(ArgumentError, match=r"out_proj.weight met no input.*skip"):
        wanda_scores(model, [(x, x, x)])


# --- the report ---------------------------------------------------------------------------------------------------


def test_report_of_a_pruning() -> None:
    model = _model()
    dense = _weights(model)
    pruning = prune(model, "2:4")
    found = pruning.report
    assert [layer.weight for layer in found.layers] == list(dense)
    for layer in found.layers:
        weight = dense[layer.weight]
        kept = weight.abs()[pruning.masks[layer.weight]].sum() / weight.abs().sum()
        assert layer.kept_magnitude == pytest.approx(float(kept), rel=1e-5)
        assert layer.zeros == int((~pruning.masks[layer.weight]).sum())
        assert layer.pattern == "2:4"
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["layers"][1]["sparsity"] == 0.5
    assert plain["sparsity"] == pytest.approx(found.sparsity)
    lines = str(pruning).splitlines()
    assert len(lines) == 1 + 3 + 1
    assert "8×3×3×3" in lines[1]
    assert lines[-1].endswith(f"{found.sparsity:.2%}")


def test_report_of_any_model() -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(5)))
    for index, (pattern, amount) in enumerate(
        [("2:4", None), ("1:4", None), ("channel", 2), ("unstructured", 9)]
    ):
        prune(model[index], pattern, amount)
    assert [layer.pattern for layer in report(model).layers] == [
        "2:4",
        "1:4",
        "channel",
        "unstructured",
        "dense",
    ]
    assert all(layer.kept_magnitude is None for layer in report(model).layers)
    assert report(nn.Linear(0, 3)).sparsity == 0.0


def test_report_in_colours() -> None:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=120)
    console.print(prune(_model(), "unstructured", 0.9))
    assert "kept magnitude" in console.file.getvalue()
    assert "90.00%" in console.file.getvalue()
