"""tilewright.nn.SparseLinear: from dense and back, state_dicts from friends and strangers, export."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tilewright
from tilewright.errors import ArgumentError, FormatError, ShapeError
from tilewright.nn import SparseLinear

FORMATS: list[tuple[str, tuple[int, int] | None]] = [("2:4", None), ("bitmap", None), ("bsr", (4, 8))]
EACH = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])


def _pruned(form: tuple[str, tuple[int, int] | None], n: int = 22, k: int = 37) -> torch.nn.Linear:
    linear = torch.nn.Linear(k, n)
    if form[0] == "2:4":
        mask = torch.zeros(n, 10, 4).scatter(2, torch.rand(n, 10, 4).topk(2, 2).indices, 1).view(n, 40)[:, :k]
    elif form[0] == "bsr":
        mask = (torch.rand(6, 5) < 0.4).repeat_interleave(4, 0).repeat_interleave(8, 1)[:n, :k]
    else:
        mask = torch.rand(n, k) < 0.3
    with torch.no_grad():
        linear.weight.mul_(mask)
    return linear


def _layer(form: tuple[str, Any], **keywords: Any) -> SparseLinear:
    return SparseLinear.from_dense(_pruned(form), form[0], block=form[1], **keywords)


def _empty_like(layer: SparseLinear, form: tuple[str, Any]) -> SparseLinear:
    return SparseLinear(37, 22, format=form[0], block=form[1] or (16, 16), activation=layer.activation)


@EACH
def test_from_dense_and_back(form: tuple[str, Any]) -> None:
    linear, x, residual = _pruned(form).eval(), torch.randn(2, 5, 37), torch.randn(22)
    layer = SparseLinear.from_dense(linear, form[0], block=form[1], activation="relu")
    assert not layer.training
    assert layer.bias is linear.bias
    torch.testing.assert_close(layer(x, residual), torch.relu(linear(x) + residual))
    back = layer.to_dense()
    assert torch.equal(back.weight, linear.weight)
    for words in (form[0], "activation=relu", "in_features=37", "stored="):
        assert words in repr(layer)
    explained = tilewright.explain(layer, x)
    assert explained.operation == "sparse_matmul"
    assert "10x22x37" in str(explained)


def test_an_activation_is_taken_over() -> None:
    dense = tilewright.nn.Linear(8, 4, activation="gelu")
    assert SparseLinear.from_dense(dense, "bitmap").activation == "gelu"


@EACH
def test_a_new_layer_is_zero(form: tuple[str, Any]) -> None:
    layer = SparseLinear(37, 22, format=form[0], block=form[1] or (16, 16))
    assert layer.bias is not None
    torch.nn.init.ones_(layer.bias)
    assert torch.equal(layer(torch.randn(3, 37)), torch.ones(3, 22))
    layer.weight.to_dense()


@EACH
@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_round_trips(form: tuple[str, Any], assign: bool, tmp_path: Path) -> None:
    layer, x = _layer(form), torch.randn(3, 37)
    file = tmp_path / "layer.pt"
    torch.save(layer.state_dict(), file)
    state = torch.load(file, weights_only=True)
    assert all(type(tensor) is Tensor for tensor in state.values())
    other = _empty_like(layer, form)
    model = torch.nn.Sequential(other)
    other(x)  # packed, and then replaced
    model.load_state_dict({f"0.{name}": tensor for name, tensor in state.items()}, assign=assign)
    assert torch.equal(other(x), layer(x))
    # Into one that holds as much already: written in place, which must be noticed.
    again = _layer(form)
    again(x)
    again.load_state_dict(state, assign=assign)
    assert torch.equal(again(x), layer(x))


@EACH
def test_safetensors_round_trip(form: tuple[str, Any], tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    layer, x = _layer(form), torch.randn(3, 37)
    safetensors.save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = _empty_like(layer, form)
    other.load_state_dict(safetensors.load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(other(x), layer(x))


@EACH
def test_buffers_are_plain_dense_tensors_of_dtypes_that_safetensors_knows(form: tuple[str, Any]) -> None:
    known = {
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float64,
        torch.int32,
        torch.int64,
        torch.uint8,
    }
    addresses = set()
    for tensor in _layer(form).state_dict().values():
        assert type(tensor) is Tensor
        assert tensor.is_contiguous()
        assert tensor.dtype in known
        addresses.add(tensor.untyped_storage().data_ptr())
    assert len(addresses) == len(_layer(form).state_dict())


@EACH
def test_copies_pickles_and_casts(form: tuple[str, Any]) -> None:
    layer, x = _layer(form), torch.randn(3, 37)
    y = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for same in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(same(x), y)
    half = copy.deepcopy(layer).bfloat16()
    assert {b.dtype for b in half.buffers()} - {torch.bfloat16} == {
        b.dtype for b in layer.buffers() if not b.is_floating_point()
    }
    torch.testing.assert_close(half(x.bfloat16()).float(), y, rtol=3e-2, atol=3e-2)
    assert all(b.is_meta for b in copy.deepcopy(layer).to("meta").buffers())


@EACH
def test_training_the_values(form: tuple[str, Any]) -> None:
    layer, x = _layer(form, trainable=True, activation="gelu"), torch.randn(64, 37)
    target = torch.randn(64, 22)
    kept = layer.weight.kept()
    assert {name for name, _ in layer.named_parameters()} == {"values", "bias"}
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(layer.weight.kept(), kept)  # and still valid: nothing moved in the padding
    frozen = SparseLinear.from_weight(layer.weight, layer.bias, "gelu")
    torch.testing.assert_close(frozen(x), layer(x))
    assert {name for name, _ in frozen.named_parameters()} == {"bias"}
    state = layer.state_dict()
    other = SparseLinear(37, 22, format=form[0], block=form[1] or (16, 16), activation="gelu", trainable=True)
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), layer(x))


@EACH
def test_export(form: tuple[str, Any]) -> None:
    layer, x = _layer(form, activation="relu").eval(), torch.randn(3, 37)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes={"input": {0: rows}})
    assert any("sparse_matmul" in str(node.target) for node in program.graph.nodes)
    wider = torch.randn(7, 37)
    torch.testing.assert_close(program.module()(wider), layer(wider))
    plain = tilewright.decompose(program)
    torch.testing.assert_close(plain.module()(wider), layer(wider))


@EACH
def test_compile_fullgraph(form: tuple[str, Any]) -> None:
    torch._dynamo.reset()
    layer, x = _layer(form, trainable=True, activation="gelu"), torch.randn(3, 37)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    assert layer.values.grad is not None


# --- strangers ---------------------------------------------------------------------------------------------------


def _refused(layer: SparseLinear, state: dict[str, Any], words: str, strict: bool = True) -> None:
    x = torch.randn(2, 37)
    before, y = {name: tensor.clone() for name, tensor in layer.state_dict().items()}, layer(x)
    with pytest.raises(FormatError, match=words):
        layer.load_state_dict(state, strict=strict)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(layer(x), y)


@EACH
def test_a_hostile_state_dict_is_refused_and_changes_nothing(form: tuple[str, Any]) -> None:
    layer = _layer(form)
    for name, good in layer.state_dict().items():
        if name == "bias":
            continue
        changes: list[Any] = [good[:-1], good.unsqueeze(0), good.to(torch.complex64), "text"]
        if not good.is_floating_point():
            changes += [torch.full_like(good, 202), torch.full_like(good, 0xFE), good.float()]
        for bad in changes:
            for strict in (True, False):
                _refused(layer, {**layer.state_dict(), name: bad}, "SparseLinear.load_state_dict", strict)


def test_versions_formats_and_sizes_must_agree() -> None:
    layer = _layer(("bitmap", None))
    state = layer.state_dict()
    for at, words in enumerate(("format_version is 9", "expected bitmap", "22", "37", "9x1", "1x9")):
        meta = state["format_version"].clone()
        meta[at] = 9
        _refused(layer, {**state, "format_version": meta}, words)
    _refused(SparseLinear(37, 22), SparseLinear(36, 22).state_dict(), r"\(22, 36\)")


def test_parts_of_a_weight_are_not_taken() -> None:
    layer = _layer(("bitmap", None))
    x = torch.randn(2, 37)
    y = layer(x)
    part = {"row": torch.full_like(layer.state_dict()["row"], 10**6)}
    assert {"bits", "row", "values"} <= set(layer.load_state_dict(part, strict=False).missing_keys)
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict(part)
    assert torch.equal(layer(x), y)


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="format is 'coo'"):
        SparseLinear(4, 4, format="coo")
    with pytest.raises(ArgumentError, match="activation is 'tanh'"):
        SparseLinear(4, 4, activation="tanh")
    with pytest.raises(ArgumentError, match="in_features is -1"):
        SparseLinear(-1, 4)
    with pytest.raises(ArgumentError, match="linear is of type ReLU"):
        SparseLinear.from_dense(torch.nn.ReLU(), "bitmap")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="at most two of each four"):
        SparseLinear.from_dense(torch.nn.Linear(8, 4), "2:4")
    with pytest.raises(ShapeError, match=r"SparseLinear: input has shape \(3, 5\)"):
        SparseLinear(4, 4)(torch.randn(3, 5))
