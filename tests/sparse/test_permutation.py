"""Orders of inputs: never worse than none, the same each time, and the network computes what it did."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tilewright
from tilewright.errors import ArgumentError, ShapeError
from tilewright.sparse import Permutation, find_permutation, mask_for, permute_inputs, permute_outputs, prune


def _uneven(*shape: int) -> Tensor:
    """A weight whose inputs differ in size, as trained ones do."""
    sizes = torch.randn(shape[1]).mul(1.5).exp()
    return torch.randn(shape) * sizes.reshape(-1, *[1] * (len(shape) - 2))


def _kept(weight: Tensor, pattern: str) -> float:
    return float((weight.abs() * mask_for(weight, pattern)).sum() / weight.abs().sum())


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(0, 6), st.integers(0, 40)),
    st.sampled_from(["2:4", "1:4", "3:4", "1:2", "4:8", "2:3"]),
    st.integers(1, 5),
    st.booleans(),
)
def test_never_keeps_less_than_the_identity(
    shape: tuple[int, int], pattern: str, rounds: int, ties: bool
) -> None:
    weight = torch.randint(-2, 3, shape).float() if ties else torch.randn(shape)
    found = find_permutation(weight, pattern, rounds=rounds)
    assert torch.equal(found.order.sort().values, torch.arange(shape[1]))
    assert torch.equal(found.order[found.inverse], torch.arange(shape[1]))
    assert found.kept_after >= found.kept_before
    if bool(weight.any()):
        assert found.kept_before == pytest.approx(_kept(weight, pattern), rel=1e-5)
        assert found.kept_after == pytest.approx(_kept(weight[:, found.order], pattern), rel=1e-5)


@pytest.mark.parametrize("shape", [(16, 64), (16, 65), (8, 32, 3, 3), (4, 300)])
@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_keeps_more_of_uneven_weights(shape: tuple[int, ...], pattern: str) -> None:
    weight = _uneven(*shape)
    found = find_permutation(weight, pattern)
    assert found.kept_after > found.kept_before + 0.005
    again = find_permutation(weight.clone(), pattern)
    assert torch.equal(again.order, found.order)
    assert str(found).startswith(f"order of {shape[1]} inputs: keeps")


def test_finds_the_best_of_a_small_weight() -> None:
    # Two groups: the large inputs stand together, and 35 ways to part eight inputs are all there is.
    weight = torch.rand(5, 8) + torch.tensor([9.0, 9, 9, 9, 0, 0, 0, 0])
    best = max(
        _kept(weight[:, [*half, *sorted(set(range(8)) - set(half))]], "2:4")
        for half in itertools.combinations(range(8), 4)
    )
    assert find_permutation(weight).kept_after > 0.99 * best


def test_no_exchange_of_two_gains_any_more() -> None:
    weight = _uneven(6, 16)
    order = find_permutation(weight, "2:4").order
    reached = _kept(weight[:, order], "2:4")
    for i, j in itertools.combinations(range(16), 2):
        swapped = order.clone()
        swapped[[i, j]] = swapped[[j, i]]
        assert _kept(weight[:, swapped], "2:4") <= reached + 1e-5


def test_scores_decide_in_place_of_magnitude() -> None:
    weight, scores = torch.ones(8, 32), _uneven(8, 32).abs()
    assert find_permutation(weight).kept_after == 0.5
    assert torch.equal(find_permutation(weight, scores=scores).order, find_permutation(scores).order)


def test_the_layer_computes_the_same_from_permuted_activations() -> None:
    for layer, x in (
        (nn.Linear(32, 8), torch.randn(5, 32)),
        (nn.Conv2d(32, 8, 3), torch.randn(2, 32, 5, 5)),
        (tilewright.nn.Conv1D(8, 32), torch.randn(5, 32)),
    ):
        y = layer(x)
        weight = layer.weight.t() if isinstance(layer, tilewright.nn.Conv1D) else layer.weight
        found = find_permutation(weight.detach())
        permute_inputs(layer, found)
        torch.testing.assert_close(layer(x[:, found.order]), y)
        assert prune(layer, "2:4").report.layers[0].kept_magnitude == pytest.approx(found.kept_after)


def test_producers_write_in_the_order_for_nothing() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Linear(16, 4),
    )
    x = torch.randn(6, 3, 8, 8)
    model(x)
    model.eval()
    with torch.no_grad():
        model[6].weight.normal_()
        model[6].bias.normal_()
    y = model(x)
    first, second = find_permutation(model[3].weight.detach()), find_permutation(_uneven(4, 16))
    permute_outputs([model[0], model[1]], first)
    permute_inputs(model[3], first)
    permute_outputs((model[3], model[6]), second)
    permute_inputs(model[7], second.order)
    torch.testing.assert_close(model(x), y)
    assert not torch.equal(first.order, torch.arange(16))


def test_what_cannot_be_permuted() -> None:
    order = Permutation(torch.randperm(8), 0.0, 0.0)
    with pytest.raises(ArgumentError, match="expected an N:M"):
        find_permutation(torch.randn(4, 4), "unstructured")
    with pytest.raises(ArgumentError, match="rounds is 0"):
        find_permutation(torch.randn(4, 4), rounds=0)
    with pytest.raises(ShapeError, match="outputs by inputs"):
        find_permutation(torch.randn(4))
    with pytest.raises(ShapeError, match="scores has shape"):
        find_permutation(torch.randn(4, 4), scores=torch.randn(4, 5))
    with pytest.raises(ArgumentError, match="negative or not finite"):
        find_permutation(torch.randn(4, 4), scores=-torch.ones(4, 4))
    with pytest.raises(ArgumentError, match="convolution with one group"):
        permute_inputs(nn.Conv2d(8, 8, 1, groups=2), order)
    with pytest.raises(ArgumentError, match="got a ReLU"):
        permute_outputs(nn.ReLU(), order)
    with pytest.raises(ShapeError, match="no order of 6 inputs"):
        permute_inputs(nn.Linear(6, 8), order)
    with pytest.raises(ShapeError, match="no order of 8 inputs"):
        permute_inputs(nn.Linear(8, 8), torch.zeros(8, dtype=torch.long))
    first, second = nn.Linear(8, 8), nn.Linear(8, 6)
    before = first.weight.detach().clone()
    with pytest.raises(ShapeError, match="no order of 6 outputs"):
        permute_outputs([first, second], order)
    assert torch.equal(first.weight, before)
