"""Patterns and the choice of units: exact counts, whole units, a fixed order of ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilewright.errors import ArgumentError, DeviceError, DtypeError, LayoutError, ShapeError
from tilewright.sparse import Block, Channel, NofM, Unstructured, mask_for, parse_pattern, prune

_SETTINGS = settings(max_examples=40, deadline=None)
_SHAPES = st.one_of(
    st.tuples(st.integers(0, 9), st.integers(0, 13)),
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 3)),
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)),
)
_SHARES = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.0, 1.0))


def _weight(shape: tuple[int, ...], ties: bool) -> Tensor:
    # Few values: most are equal to others.
    return torch.randint(-2, 3, shape).float() if ties else torch.randn(shape)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("unstructured", Unstructured()),
        ("2:4", NofM(2, 4)),
        (" 1 : 16 ", NofM(1, 16)),
        ("block(4,16)", Block(4, 16)),
        ("block( 32, 32 )", Block(32, 32)),
        ("channel", Channel(0)),
        ("channel(1)", Channel(1)),
    ],
)
def test_a_pattern_is_read_and_says_itself(text: str, pattern: object) -> None:
    assert parse_pattern(text) == pattern
    assert parse_pattern(str(pattern)) == pattern
    assert parse_pattern(parse_pattern(text)) == pattern


@pytest.mark.parametrize(
    "text", ["", "2:", "4:2", "4:4", "0:4", "block(0, 4)", "block(4)", "channel(2)", "two", None, 7]
)
def test_what_is_no_pattern_is_named(text: object) -> None:
    with pytest.raises(ArgumentError, match="pattern is"):
        parse_pattern(text)  # type: ignore[arg-type]


@_SETTINGS
@given(_SHAPES, _SHARES, st.booleans())
def test_unstructured_keeps_the_largest_and_exactly_so_many(
    shape: tuple[int, ...], share: float, ties: bool
) -> None:
    weight = _weight(shape, ties)
    mask = mask_for(weight, "unstructured", share)
    assert mask.dtype == torch.bool
    assert mask.shape == weight.shape
    assert int((~mask).sum()) == round(share * weight.numel())
    kept, gone = weight[mask].abs(), weight[~mask].abs()
    assert not len(kept) or not len(gone) or kept.min() >= gone.max()
    assert torch.equal(mask, mask_for(weight, "unstructured", round(share * weight.numel())))


def test_of_equal_scores_the_earlier_are_kept() -> None:
    assert mask_for(torch.ones(6), "unstructured", 4).tolist() == [True, True, False, False, False, False]
    assert mask_for(torch.ones(2, 5), "2:4").tolist() == [[True, True, False, False, True]] * 2
    assert mask_for(torch.ones(4, 2), "channel", 0.5)[:, 0].tolist() == [True, True, False, False]


@_SETTINGS
@given(_SHAPES, st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_no_group_holds_more_than_n(shape: tuple[int, ...], n: int, more: int, ties: bool) -> None:
    weight, m = _weight(shape, ties), n + more
    mask = mask_for(weight, f"{n}:{m}")
    inputs = shape[1]
    for start in range(0, inputs, m):
        group = mask[:, start : start + m]
        size = group.shape[1]
        assert torch.equal(group.sum(1), torch.full_like(group.sum(1), min(n, size)))
        lost = weight[:, start : start + m].abs().masked_fill(group, 0.0).amax(1)
        least = weight[:, start : start + m].abs().masked_fill(~group, torch.inf).amin(1)
        assert bool((least >= lost).all())


@_SETTINGS
@given(_SHAPES, st.floats(0.5, 1.0))
def test_more_than_the_pattern_removes_can_be_asked_for(shape: tuple[int, ...], share: float) -> None:
    weight = torch.randn(shape)
    own = int((~mask_for(weight, "2:4")).sum())
    count = max(own, round(share * weight.numel()))
    mask = mask_for(weight, "2:4", count)
    assert int((~mask).sum()) == count
    assert not bool((mask & ~mask_for(weight, "2:4")).any())


@_SETTINGS
@given(_SHAPES, st.integers(1, 6), st.integers(1, 6), _SHARES, st.booleans())
def test_blocks_are_kept_or_removed_whole(
    shape: tuple[int, ...], r: int, c: int, share: float, ties: bool
) -> None:
    weight = _weight(shape, ties)
    mask = mask_for(weight, f"block({r}, {c})", share)
    blocks, kept, means = 0, 0, {True: [torch.inf], False: [-torch.inf]}
    flat = mask.reshape(shape[0], shape[1], -1) if weight.numel() else mask.new_zeros(0, 0, 0)
    values = weight.abs().reshape(flat.shape) if weight.numel() else weight.new_zeros(0, 0, 0)
    for tap in range(flat.shape[2]):
        for top in range(0, flat.shape[0], r):
            for left in range(0, flat.shape[1], c):
                block = flat[top : top + r, left : left + c, tap]
                assert bool(block.all()) or not bool(block.any())
                blocks, kept = blocks + 1, kept + int(block.all())
                mean = float(values[top : top + r, left : left + c, tap].double().mean())
                means[bool(block.all())].append(mean)
    assert blocks - kept == round(share * blocks)
    assert min(means[True]) >= max(means[False]) - 1e-6


@_SETTINGS
@given(_SHAPES, st.sampled_from([0, 1]), _SHARES)
def test_channels_are_kept_or_removed_whole(shape: tuple[int, ...], dim: int, share: float) -> None:
    weight = torch.randn(shape)
    mask = mask_for(weight, f"channel({dim})", share)
    rows = mask.transpose(0, dim).flatten(1)
    if weight.numel():
        assert torch.equal(rows.all(1), rows.any(1))
        assert int((~rows.all(1)).sum()) == round(share * shape[dim])


@pytest.mark.parametrize("pattern", ["unstructured", "block(4, 4)", "channel", "channel(1)"])
@pytest.mark.parametrize("amount", [0, 0.0, 1.0])
def test_nothing_and_everything(pattern: str, amount: float) -> None:
    weight = torch.randn(6, 10)
    mask = mask_for(weight, pattern, amount)
    assert bool(mask.any()) is (amount == 0)
    assert bool(mask.all()) is (amount == 0)


def test_everything_of_2_to_4_too() -> None:
    assert not mask_for(torch.randn(6, 10), "2:4", 1.0).any()


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "block(4, 4)", "channel"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (0, 3, 3, 3), (3, 0, 3, 3)])
def test_empty_weights_have_empty_masks(pattern: str, shape: tuple[int, ...]) -> None:
    mask = mask_for(torch.empty(shape), pattern, None if pattern == "2:4" else 0.5)
    assert mask.shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "block(3, 2)"])
def test_the_dtype_changes_nothing(dtype: torch.dtype, pattern: str) -> None:
    weight = torch.randint(-50, 50, (9, 14)).to(dtype)
    amount = None if pattern == "2:4" else 0.3
    assert torch.equal(mask_for(weight, pattern, amount), mask_for(weight.float(), pattern, amount))


def test_strides_change_nothing() -> None:
    weight = torch.randn(8, 12, 3, 3)
    strided = weight.to(memory_format=torch.channels_last)
    for pattern in ("unstructured", "2:4", "block(4, 4)"):
        amount = None if pattern == "2:4" else 0.5
        assert torch.equal(mask_for(weight, pattern, amount), mask_for(strided, pattern, amount))
    pruning = prune(strided, "2:4")
    assert torch.equal(strided, weight * pruning.masks["weight"])


def test_scores_decide_in_place_of_magnitude() -> None:
    weight = torch.randn(5, 8)
    assert torch.equal(mask_for(weight, "2:4", scores=-weight.abs()), mask_for(1 / weight, "2:4"))


@pytest.mark.parametrize("amount", [-0.1, 1.5, -1, 81, True, "0.5", None, float("nan"), [0.5]])
def test_amounts_that_are_none(amount: object) -> None:
    with pytest.raises(ArgumentError, match="amount is"):
        mask_for(torch.randn(8, 10), "unstructured", amount)  # type: ignore[arg-type]


def test_less_than_the_pattern_removes_is_no_pattern() -> None:
    with pytest.raises(ArgumentError, match=r"expected 32 or more for 2:4.*schedule"):
        mask_for(torch.randn(8, 10), "2:4", 0.3)


@pytest.mark.parametrize("pattern", ["2:4", "block(2, 2)", "channel"])
def test_vectors_have_no_inputs(pattern: str) -> None:
    with pytest.raises(ShapeError, match="outputs by inputs"):
        mask_for(torch.randn(8), pattern, 0.5)


def test_weights_that_cannot_be_pruned() -> None:
    with pytest.raises(DtypeError, match=r"int64.*expected float"):
        mask_for(torch.ones(4, 4, dtype=torch.long), "2:4")
    with pytest.raises(LayoutError, match="sparse_coo"):
        mask_for(torch.eye(4).to_sparse(), "2:4")
    wrapped = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=torch.jagged)
    with pytest.raises(LayoutError, match=r"NestedTensor|jagged"):
        mask_for(wrapped, "2:4")
    with pytest.raises(DeviceError, match="meta"):
        mask_for(torch.empty(4, 4, device="meta"), "2:4")
    with pytest.raises(ArgumentError, match="NaN or infinity"):
        mask_for(torch.full((4, 4), torch.nan), "2:4")
    with pytest.raises(ShapeError, match=r"score of weight has shape \(4, 3\)"):
        mask_for(torch.randn(4, 4), "2:4", scores=torch.randn(4, 3))
    with pytest.raises(ArgumentError, match="got a list"):
        prune([1.0], "2:4")  # type: ignore[arg-type]
