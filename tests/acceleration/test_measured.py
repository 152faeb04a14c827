"""accelerate with example inputs: what is measured, kept, laid out anew, and undone. No test asserts a time."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tilewright
from tests.acceleration.models import Block, Net, images, settle
from tests.acceleration.support import Spy, assert_equal, assert_restored, outputs, state_of
from tilewright.acceleration import measure
from tilewright.acceleration.fused import Fused
from tilewright.errors import ArgumentError


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stands in for the clock: ratios that the next comparisons find, 2 once there are none left."""
    ratios: list[float] = []

    def run(old: Callable[[], Any], new: Callable[[], Any], most_seconds: float) -> measure.Gain:
        old()
        new()
        return measure.Gain([ratios.pop(0) if ratios else 2.0], [1.0])

    monkeypatch.setattr(measure, "_race", run)
    return ratios


@pytest.fixture
def layouts(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Has channels_last be the faster layout, or the slower one."""

    def prefer(channels_last: bool) -> None:
        times = itertools.cycle([1.0, 2.0] if channels_last else [2.0, 1.0])
        monkeypatch.setattr(measure, "_seconds", lambda run, rounds: next(times))

    return prefer


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor, scale: float = 1.0, *, shift: Tensor | None = None) -> dict[str, Any]:
        y = self.act(self.layer(x))
        return {"y": y * scale if shift is None else y * scale + shift, "index": y.argmax(-1), "text": "name"}


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "dictionary"])
def test_every_form_of_example_inputs(form: str) -> None:
    model, x, shift = Called().eval(), torch.randn(3, 6), torch.randn(3, 4)
    given: Any = {
        "tensor": x,
        "tuple": (x, 2.0),
        "list": [x, 0.5],
        "dictionary": {"x": x, "scale": 3.0, "shift": shift},
    }[form]
    accelerated: Any = tilewright.accelerate(model, given)
    assert accelerated.tilewright_report.gain is not None
    assert_equal(model, accelerated, x)


def test_what_is_slower_is_left_as_it_was(race: list[float], work: Spy) -> None:
    model, x = settle(Block()), images(channels=8)
    race += [0.5, 0.4, 1.5]  # what is slower is looked at again
    accelerated: Any = tilewright.accelerate(model, x)
    first, second = accelerated.tilewright_report.entries
    assert (first.layer, first.after, first.gain) == ("conv1", None, 0.5)
    assert "faster" in first.note
    assert (second.layer, second.after, second.gain) == ("conv2", "tilewright.nn.Conv2d", 1.5)
    assert type(accelerated.conv1) is nn.Conv2d
    assert work(accelerated, x) == ["Conv2d+BatchNorm2d"]
    assert accelerated.tilewright_report.gain == 2.0
    assert_equal(model, accelerated, x)


def test_what_is_slower_once_only_is_kept(race: list[float]) -> None:
    race += [0.5, 1.2, 1.5, 0.7, 1.1]
    accelerated: Any = tilewright.accelerate(settle(Block()), images(channels=8))
    assert [entry.gain for entry in accelerated.tilewright_report.entries] == [1.2, 1.5]
    assert accelerated.tilewright_report.gain == 1.1


def test_a_model_that_is_slower_is_left_as_it_was(race: list[float], layouts: Any) -> None:
    layouts(True)
    model, x = settle(Block()), images(channels=8)
    before = state_of(model)
    race += [1.5, 1.5, 0.9, 0.8]
    tilewright.accelerate(model, x, inplace=True)
    report = model.__dict__.pop("tilewright_report")
    assert_restored(before, model)
    assert "Nothing was kept" in str(report)
    assert report.gain == 1.0
    assert all(entry.after is None and "as a whole" in entry.note for entry in report.entries)


@pytest.mark.parametrize("faster", [True, False])
def test_weights_are_laid_out_where_that_is_faster(faster: bool, race: list[float], layouts: Any) -> None:
    layouts(faster)
    model, x = settle(Net()), images()
    before = state_of(model)
    tilewright.accelerate(model, x, inplace=True)
    last = torch.channels_last
    report: Any = model.tilewright_report
    assert report.memory_format == ("channels_last" if faster else "as it was")
    for name in ("blocks.0.conv1", "blocks.1.conv2"):
        assert model.get_submodule(name).weight.is_contiguous(memory_format=last) is faster
        assert model.get_submodule(name)._forward_pre_hooks == {}
    assert model.blocks[0].conv1.weight is before["blocks.0.conv1"][2]["weight"][0]
    original: Any = settle(Net())
    original.load_state_dict(model.state_dict())
    assert_equal(original, model, x)
    assert_restored(before, tilewright.restore(model))


def test_strides_of_outputs_are_kept(race: list[float], layouts: Any) -> None:
    layouts(True)
    model, x = settle(Block()), images(channels=8)
    accelerated: Any = tilewright.accelerate(model, x)
    assert accelerated.tilewright_report.memory_format == "as it was"
    assert outputs(accelerated, x)[0].is_contiguous()


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8 * 49, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.conv(x).view(len(x), -1))


def test_views_that_need_the_old_layout(race: list[float], layouts: Any) -> None:
    layouts(True)
    model, x = Viewed().eval(), images()
    accelerated: Any = tilewright.accelerate(model, x)
    assert accelerated.tilewright_report.memory_format == "as it was"
    assert_equal(model, accelerated, x)


def test_wrong_outputs_undo_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = Fused._fused

    def spoilt(layer: Fused, x: Tensor, chain: Any) -> Any:
        y = fused(layer, x, chain)
        assert y is not None
        return 1.01 * y

    monkeypatch.setattr(Fused, "_fused", spoilt)
    model, x = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), images()
    before = state_of(model)
    with pytest.raises(ArgumentError, match="output 0 of the model differs by"):
        tilewright.accelerate(model, x, inplace=True)
    assert_restored(before, model)


def test_an_error_of_the_models_own_undoes_everything() -> None:
    model = settle(Block())
    before = state_of(model)
    with pytest.raises(RuntimeError):
        tilewright.accelerate(model, images(channels=3), inplace=True)
    assert_restored(before, model)


def test_weights_that_others_hold_are_said_so(race: list[float]) -> None:
    model, x = settle(Block()), images(channels=8)
    optimizer = torch.optim.SGD(model.parameters())
    tilewright.accelerate(model, x, inplace=True)
    report: Any = model.tilewright_report
    assert any("others hold the weight" in entry.note for entry in report.entries)
    del optimizer


def test_differences_are_told() -> None:
    values = torch.tensor([1.0, 2.0, 4.0])
    assert measure._difference(values, values + 1e-4) is None
    assert "differs by" in str(measure._difference(values, values + 1e-2))
    assert "float64" in str(measure._difference(values, values.double()))
    assert "NaN" in str(measure._difference(values, values / 0))
    assert measure._difference(values / 0, values / 0) is None
    assert "100.0%" in str(measure._difference(values.long(), values.long() + 1))
    assert measure._difference(torch.empty(0), torch.empty(0)) is None


def test_the_clock_itself() -> None:
    counts = [0, 0]

    def run(index: int) -> None:
        counts[index] += 1

    gain = measure._race(lambda: run(0), lambda: run(1), 0.01)
    assert gain.ratio > 0
    assert len(gain.old) == len(gain.new) >= 3
    assert min(counts) > 3
    assert measure.Gain([1.0, 9.0, 1.0, 1.0], [2.0, 2.0, 2.0, 9.0]).slower
    assert not measure.Gain([1.0, 1.0, 1.0], [1.0, 0.9, 7.0]).slower


def test_layers_that_are_not_called_are_said_so() -> None:
    model = settle(nn.ModuleDict({"used": nn.Linear(4, 4), "other": nn.Linear(4, 4)}))
    model.forward = model.used.forward  # type: ignore[method-assign]
    accelerated: Any = tilewright.accelerate(model, torch.randn(2, 4))
    entries = {entry.layer: entry for entry in accelerated.tilewright_report.entries}
    assert entries["other"].gain is None


def test_tuning_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = importlib.import_module("tilewright.tuning")
    tune, seen = tuning.tune, []

    def quickly(*args: Any, **keywords: Any) -> Any:
        seen.append(tune(*args, budget_s=0.05, progress=False, **keywords))
        return seen[-1]

    monkeypatch.setattr(tuning, "tune", quickly)
    model, x = settle(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())), images()
    state = torch.get_rng_state()
    accelerated = tilewright.accelerate(model, x, tune=True)
    (result,) = seen[0].results
    assert "frozen" in result.problem.describe()
    assert result.problem.activation == "relu"
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(model, accelerated, x)


@pytest.mark.parametrize("measured", [False, True], ids=["unmeasured", "measured"])
def test_accelerated_in_inference_mode(measured: bool, race: list[float], work: Spy) -> None:
    model = settle(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with torch.inference_mode():
        x = images()
        accelerated: Any = tilewright.accelerate(model, x if measured else None)
        assert work(accelerated, x) == ["Conv2d+BatchNorm2d"]
    assert not accelerated[1].weight.is_inference()
    assert_equal(model, accelerated, images())
    with torch.inference_mode():
        tilewright.restore(accelerated)
    assert not accelerated[1].weight.is_inference()
