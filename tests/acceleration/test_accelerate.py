"""accelerate: the same results, from the same modules; restore: nothing is left of it."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tilewright
from tests.acceleration.models import MODELS, Block, Net, Tied, images, settle
from tests.acceleration.support import Spy, assert_equal, assert_restored, outputs, state_of
from tilewright.errors import ArgumentError

every_model = pytest.mark.parametrize("name", MODELS)
whether_measured = pytest.mark.parametrize("measured", [False, True], ids=["unmeasured", "measured"])


def make(name: str) -> tuple[Any, Any]:
    builder, inputs = MODELS[name]
    return settle(builder()), inputs()


@every_model
@whether_measured
def test_results_are_the_models_own(name: str, measured: bool) -> None:
    model, x = make(name)
    accelerated = tilewright.accelerate(model, x if measured else None)
    assert accelerated is not model
    for old, new in zip(model.modules(), accelerated.modules(), strict=True):
        assert isinstance(new, type(old))
    assert_equal(model, accelerated, x)


@pytest.mark.parametrize("name", ["net", "sequential", "tied"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    model, x = make(name)
    x = x.to(dtype) if x.is_floating_point() else x
    accelerated = tilewright.accelerate(model).to(dtype)
    model.to(dtype)
    assert_equal(model, accelerated, x)
    assert_equal(model, tilewright.accelerate(model), x)


@pytest.mark.parametrize("backend", ["cpu", "aten"])
def test_whatever_kernel_runs(backend: Any, work: Spy) -> None:
    model, x = settle(Block()), images(channels=8)
    accelerated = tilewright.accelerate(model)
    with tilewright.options(backend=backend):
        assert work(accelerated, x) == ["Conv2d+BatchNorm2d+ReLU", "Conv2d+BatchNorm2d"]
        assert_equal(model, accelerated, x)


@every_model
@whether_measured
def test_restore_leaves_nothing_behind(name: str, measured: bool) -> None:
    model, x = make(name)
    y = outputs(copy.deepcopy(model), x)
    before = state_of(model)
    accelerated = tilewright.accelerate(model, x if measured else None, inplace=True)
    assert accelerated is model
    outputs(copy.deepcopy(model), x)
    if name != "branching":  # keeps what it has seen
        assert tilewright.restore(model) is model
        assert_restored(before, model)
    tilewright.restore(model)
    for old, new in zip(y, outputs(model, x), strict=True):
        assert torch.equal(old, new)


def test_a_copy_leaves_the_model_alone() -> None:
    model, x = make("net")
    before = state_of(model)
    tilewright.accelerate(model, x)
    assert_restored(before, model)
    with pytest.raises(ArgumentError, match="was not accelerated"):
        tilewright.restore(model)


def test_buffers_and_random_numbers_are_left_alone() -> None:
    model, x = make("counting")
    state = torch.get_rng_state()
    accelerated = tilewright.accelerate(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert int(accelerated.calls) == int(model.calls) == 0
    outputs(accelerated, x)
    assert int(accelerated.calls) == 1


def test_accelerated_again_it_is_restored_first() -> None:
    model, x = make("net")
    before = state_of(model)
    once = tilewright.accelerate(model, inplace=True)
    again = tilewright.accelerate(once, inplace=True)
    assert again is model
    assert_equal(tilewright.restore(copy.deepcopy(model)), model, x)
    assert_restored(before, tilewright.restore(model))


def test_a_part_of_a_model(work: Spy) -> None:
    model, x = make("net")
    tilewright.accelerate(model.blocks, inplace=True)
    assert work(model, x) == 2 * ["Conv2d+BatchNorm2d+ReLU", "Conv2d+BatchNorm2d"]
    tilewright.accelerate(model, inplace=True)
    assert len(work(model, x)) == 7
    tilewright.restore(model)
    with pytest.raises(ArgumentError, match="was not accelerated"):
        tilewright.restore(model.stem)


def test_tied_weights_stay_tied() -> None:
    model = settle(Tied())
    accelerated: Any = tilewright.accelerate(model)
    assert accelerated.head.weight is accelerated.words.weight
    with torch.no_grad():
        accelerated.words.weight.mul_(2)
        model.words.weight.mul_(2)
    assert_equal(model, accelerated, torch.randint(11, (3, 4)))


def test_a_module_with_several_names_stays_one() -> None:
    block = Block()
    model = settle(nn.Sequential(block, nn.ModuleDict({"a": block})["a"], nn.ReLU()))
    accelerated: Any = tilewright.accelerate(model)
    assert accelerated[0] is accelerated[1]
    assert_equal(model, accelerated, images(channels=8))
    assert accelerated.tilewright_report.entries[0].layer == "0.conv1, 1.conv1"


# --- what is left alone -------------------------------------------------------------------------------------------


def _hooked(layer: Any) -> None:
    layer.register_forward_hook(lambda module, args, y: y + 1)


def _parametrized(layer: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(layer)


def _pruned(layer: Any) -> None:
    import torch.nn.utils.prune

    torch.nn.utils.prune.random_unstructured(layer, "weight", 0.5)
    layer._forward_pre_hooks.clear()


def _overridden(layer: Any) -> None:
    layer.forward = lambda x: 2 * x


class _Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


ODD: dict[str, tuple[Any, str]] = {
    "a forward hook": (_hooked, "hooks"),
    "a forward pre-hook": (lambda m: m.register_forward_pre_hook(lambda module, args: None), "hooks"),
    "a backward hook": (lambda m: m.register_full_backward_hook(lambda module, old, new: None), "hooks"),
    "a state_dict hook": (lambda m: m.register_state_dict_pre_hook(lambda *given: None), "hooks"),
    "a load hook": (lambda m: m.register_load_state_dict_post_hook(lambda *given: None), "hooks"),
    "a parametrization": (_parametrized, "parametrized"),
    "pruning": (_pruned, "pruned"),
    "a forward of its own": (_overridden, "forward of its own"),
    "a subclass": (lambda m: setattr(m, "__class__", _Scaled), "_Scaled"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_layers_are_left_alone(kind: str) -> None:
    change, reason = ODD[kind]
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    change(model[0])
    x, classes = torch.randn(3, 6), [type(module) for module in model.modules()]
    y = outputs(model, x)
    tilewright.accelerate(model, inplace=True)
    report: Any = model.tilewright_report
    first, second = report.entries
    assert first.after is None
    assert reason in first.note
    assert second.after == "tilewright.nn.Linear"
    assert [type(module) for module in model.modules()][:2] == classes[:2]
    torch.testing.assert_close(outputs(model, x), y, rtol=1e-5, atol=1e-6)
    tilewright.restore(model)
    assert [type(module) for module in model.modules()] == classes


def test_layers_in_float64_are_left_alone() -> None:
    model = settle(Net()).double()
    accelerated: Any = tilewright.accelerate(model)
    assert all("float64" in entry.note for entry in accelerated.tilewright_report.entries)
    x = images().double()
    assert torch.equal(*outputs(accelerated, x), *outputs(model, x))


def test_followers_with_hooks_do_their_own_work(work: Spy) -> None:
    seen: list[float] = []
    model, x = settle(Block()), images(channels=8)
    model.bn1.register_forward_hook(lambda module, args, y: seen.append(float(y.double().sum())))
    accelerated = tilewright.accelerate(model)
    outputs(model, x)
    assert work(accelerated, x) == ["Conv2d+BatchNorm2d"]
    assert len(seen) == 2
    assert seen[1] == pytest.approx(seen[0], rel=1e-3, abs=1e-3)


def test_attention_reads_the_weights_of_its_children() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    model = nn.Sequential(layer, nn.Linear(16, 16)).eval()
    accelerated: Any = tilewright.accelerate(model)
    entries = {entry.layer: entry for entry in accelerated.tilewright_report.entries}
    assert "TransformerEncoderLayer" in entries["0.linear1"].note
    assert entries["1"].after == "tilewright.nn.Linear"
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(outputs(accelerated, x), outputs(model, x), rtol=1e-5, atol=1e-5)


def test_arguments_are_checked() -> None:
    anything: Any = torch.relu
    with pytest.raises(ArgumentError, match=r"accelerate: model is a .*; expected a torch.nn.Module"):
        tilewright.accelerate(anything)
    with pytest.raises(ArgumentError, match="example_inputs"):
        tilewright.accelerate(nn.Linear(3, 3).eval(), tune=True)
    with pytest.raises(ArgumentError, match="expected a tensor, a tuple or list"):
        tilewright.accelerate(nn.Linear(3, 3).eval(), 3)
    with pytest.raises(ArgumentError, match=r"restore: model is a .*; expected a torch.nn.Module"):
        tilewright.restore(anything)
    uncopied: Any = nn.Linear(3, 3).eval()
    uncopied.numbers = (number for number in range(3))
    with pytest.raises(ArgumentError, match="inplace=True"):
        tilewright.accelerate(uncopied)
    assert tilewright.accelerate(uncopied, inplace=True) is uncopied


# --- the report ---------------------------------------------------------------------------------------------------


def test_report_names_layers_and_what_became_of_them() -> None:
    model, x = make("net")
    report = tilewright.accelerate(model).tilewright_report
    found = {entry.layer: (entry.before, entry.after) for entry in report.entries}
    assert found["stem.0"] == ("Conv2d + BatchNorm2d + ReLU", "tilewright.nn.Conv2d(relu)")
    assert found["blocks.1.conv2"] == ("Conv2d + BatchNorm2d", "tilewright.nn.Conv2d")
    assert found["head.0"] == ("Linear + BatchNorm1d + SiLU", "tilewright.nn.Linear(silu)")
    assert found["head.4"] == ("Linear + GELU", "tilewright.nn.Linear(gelu_tanh)")
    assert report.gain is None
    assert "not measured" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["layers"][0]["layer"] == "stem.0"
    measured = tilewright.accelerate(model, x).tilewright_report
    assert all(entry.gain is not None for entry in measured.entries)
    assert measured.gain is not None
    assert [entry.layer for entry in measured.entries] == [entry.layer for entry in report.entries]


def test_report_is_no_part_of_the_module() -> None:
    model: Any = tilewright.accelerate(settle(Net()))
    assert "tilewright_report" not in dict(model.named_modules())
    assert not any("tilewright" in name for name in model.state_dict())
    assert str(copy.deepcopy(model).tilewright_report) == str(model.tilewright_report)


def test_report_in_colours() -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=160, file=io.StringIO())
    console.print(tilewright.accelerate(settle(Net())).tilewright_report)
    assert "tilewright.nn.Conv2d(relu)" in console.file.getvalue()
