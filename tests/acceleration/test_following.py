"""A layer does the work of those that follow it exactly where its result certainly goes to them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tilewright
from tests.acceleration.models import Block, Branching, Features, Functional, Net, Twice, images, settle
from tests.acceleration.support import Spy, assert_equal, outputs
from tilewright.errors import Error


class Parts(nn.Module):
    """What the forward methods below are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.GELU()])
        self.flag = False
        self.kept: Any = None


class Nested(Parts):
    def forward(self, x: Tensor) -> Any:
        return self.layers[1](self.layers[0](self.relu(self.bn(self.conv(x)))))


class Named(Parts):
    def forward(self, x: Tensor) -> Any:
        y: Tensor = self.conv(x)
        y = self.bn(
            y,
        )
        z = self.relu(y)
        return z + 1


class Returned(Parts):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        return x + self.bn(h)


class Decorated(Parts):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        x = self.bn(self.
            conv(x))  # fmt: skip
        return self.relu(x)


class WithFunctions(Parts):
    def forward(self, x: Tensor) -> Any:
        x = torch.flatten(self.relu(self.conv(copy.copy(x))), 2).view(x.shape)
        return nn.functional.pad(self.bn(self.conv(x)), (1, 1))


class Inherited(Decorated):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class InBranches(Parts):
    def forward(self, x: Tensor) -> Any:
        if self.flag:
            x = self.conv(x)
            x = self.bn(x)
        else:
            x = self.relu(self.conv(x))
        return x


class ReadTwice(Parts):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        y = self.relu(h)
        return y + h


class ReadLater(Parts):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        y = self.relu(h)
        if self.flag:
            return h
        return y


class OnOneLine(Parts):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        y = self.relu(h); z = h  # noqa: E702 # fmt: skip
        return y + z


class Repeated(Parts):
    def forward(self, x: Tensor) -> Any:
        h = x
        for _ in range(2):
            x = x + h
            h = self.conv(x)
            y = self.relu(h)
        return y


class KeptAsAttribute(Parts):
    def forward(self, x: Tensor) -> Any:
        self.kept = x = self.conv(x)
        return self.relu(x)


class Walrus(Parts):
    def forward(self, x: Tensor) -> Any:
        y = self.relu(h := self.conv(x))
        return y - h


class Captured(Parts):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        h = self.relu(h)
        self.kept = lambda: h
        return h


class Between(Parts):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        h.mul_(2)
        return self.relu(h)


class Conditional(Parts):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        return self.relu(h) if self.flag else h


class WithLocals(Parts):
    def forward(self, x: Tensor) -> Any:
        names = locals()
        y = self.relu(self.conv(x))
        return y + names["x"]


class Rebound(Parts):
    def forward(self, x: Tensor) -> Any:
        other = self
        self = copy.deepcopy(other)
        self.relu.__class__ = nn.Tanh  # type: ignore[assignment]
        return self.relu(other.conv(x))


class Renamed(Parts):
    def forward(self, x: Tensor) -> Any:
        conv, act = self.conv, self.relu
        return act(conv(x))


class InLoop(Parts):
    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class WithKeyword(Parts):
    def forward(self, x: Tensor) -> Any:
        return self.relu(input=self.conv(x))


SOURCES: list[tuple[type[Parts], list[str]]] = [
    (Nested, ["Conv2d+BatchNorm2d+ReLU", "Conv2d+GELU"]),
    (Named, ["Conv2d+BatchNorm2d+ReLU"]),
    (Returned, ["Conv2d+BatchNorm2d"]),
    (Decorated, ["Conv2d+BatchNorm2d+ReLU"]),
    (WithFunctions, ["Conv2d+ReLU", "Conv2d+BatchNorm2d"]),
    (Inherited, ["Conv2d+BatchNorm2d+ReLU"]),
    (InBranches, ["Conv2d+ReLU"]),
    (ReadTwice, []),
    (ReadLater, []),
    (OnOneLine, []),
    (Repeated, []),
    (KeptAsAttribute, []),
    (Walrus, []),
    (Captured, []),
    (Between, []),
    (Conditional, []),
    (WithLocals, []),
    (Rebound, []),
    (Renamed, []),
    (InLoop, []),
    (WithKeyword, []),
]


@pytest.mark.parametrize(("kind", "expected"), SOURCES)
def test_source_says_what_follows(kind: type[Parts], expected: list[str], work: Spy) -> None:
    model, x = settle(kind()), images(channels=4)
    accelerated: Any = tilewright.accelerate(model)
    assert bool(accelerated.tilewright_report.notes) is (kind is WithLocals)
    assert work(accelerated, x) == expected
    assert_equal(model, accelerated, x)
    model.flag = accelerated.flag = True
    assert_equal(model, accelerated, x)


def test_known_models(work: Spy) -> None:
    norm, both = "Conv2d+BatchNorm2d", "Conv2d+BatchNorm2d+ReLU"
    found = work(tilewright.accelerate(settle(Net())), images())
    assert found == [both, both, norm, both, norm, "Linear+BatchNorm1d+SiLU", "Linear+GELU"]
    assert work(tilewright.accelerate(settle(Features())), images()) == []
    assert work(tilewright.accelerate(settle(Functional())), images(channels=4)) == []
    twice = tilewright.accelerate(settle(Twice()))
    assert work(twice, images(channels=4)) == [both, "Conv2d+GELU"]
    assert work(tilewright.accelerate(settle(Branching())), images(channels=4)) == [both]


def test_what_changes_later_is_seen() -> None:
    model, x = settle(Branching()), images(channels=4)
    accelerated: Any = tilewright.accelerate(model)
    assert_equal(model, accelerated, x)
    assert_equal(model, accelerated, x, x)
    model.early = accelerated.early = True
    assert_equal(model, accelerated, x)


def test_calls_from_elsewhere_are_just_calls() -> None:
    model, x = settle(Net()), images()
    accelerated: Any = tilewright.accelerate(model)
    assert_equal(model.stem[0], accelerated.stem[0], x)
    assert_equal(model.stem[:1], accelerated.stem[:1], x)
    assert_equal(model.stem[:2], accelerated.stem[:2], x)
    other, theirs = (nn.Sequential(m.stem[0], nn.Sigmoid(), m.stem[1]) for m in (accelerated, model))
    assert_equal(theirs, other, x)
    with torch.no_grad():
        for layer, original in zip(accelerated.stem, model.stem, strict=True):
            ours = layer(x)
            torch.testing.assert_close(ours, original(x), rtol=1e-5, atol=1e-5)
            x = ours


def test_modules_that_are_replaced_later(work: Spy) -> None:
    model: Any = settle(Block())
    x = images(channels=8)
    accelerated: Any = tilewright.accelerate(model)
    for one in (model, accelerated):
        one.bn1 = nn.Identity()
    assert work(accelerated, x) == ["Conv2d+BatchNorm2d"]
    assert_equal(model, accelerated, x)
    norm = settle(nn.BatchNorm2d(8))
    for one in (model, accelerated):
        one.bn2 = copy.deepcopy(norm)
    assert work(accelerated, x) == []
    assert_equal(model, accelerated, x)


@pytest.mark.parametrize("change", ["append", "insert", "delete", "swap"])
def test_sequences_that_change_later(change: str) -> None:
    def apply(sequence: Any) -> None:
        if change == "append":
            sequence.append(nn.Tanh())
        elif change == "insert":
            sequence.insert(1, nn.Tanh())
        elif change == "delete":
            del sequence[1]
        else:
            sequence[2] = nn.Tanh()

    model, x = settle(Net()).stem, images()
    accelerated = tilewright.accelerate(model)
    outputs(accelerated, x)
    apply(model)
    apply(accelerated)
    assert_equal(model, accelerated, x)


def test_a_mark_that_is_not_the_modules_own() -> None:
    model: Any = tilewright.accelerate(settle(Block()))
    y = torch.randn(1, 8, 3, 3)
    marked: Any = y
    marked._tilewright_done = (model.bn1, model.relu)
    with pytest.raises(Error, match="did the work of another BatchNorm2d"), torch.no_grad():
        model.relu(y)
    with torch.no_grad():
        assert model.relu(model.bn1(y)) is y
        assert model.relu(y) is y  # in place
    assert not hasattr(y, "_tilewright_done")


def test_vectors_that_change_are_folded_anew() -> None:
    model, x = settle(Block()), images(channels=8)
    accelerated: Any = tilewright.accelerate(model)
    assert_equal(model, accelerated, x)

    def both(change: Any) -> None:
        for one in (model, accelerated):
            with torch.no_grad():
                change(one)
        assert_equal(model, accelerated, x)

    both(lambda m: m.bn1.weight.mul_(3))
    both(lambda m: m.bn1.bias.data.add_(1))
    both(lambda m: m.bn1.running_mean.numpy().__setitem__(2, 5.0))
    both(lambda m: m.bn1.running_var.fill_(0.7))
    both(lambda m: setattr(m.bn1, "eps", 0.1))
    both(lambda m: setattr(m.bn1, "weight", None))
    both(lambda m: m.conv1.weight.data.mul_(2))
    both(lambda m: setattr(m.conv1, "bias", nn.Parameter(torch.arange(8.0))))
    both(lambda m: m.conv1.bias.data.mul_(-1))
    both(lambda m: setattr(m.bn1, "running_var", torch.ones(8)))
    both(lambda m: m.bn1.reset_running_stats())


def test_a_batchnorm_that_cannot_be_folded(work: Spy) -> None:
    x = images(channels=8)
    for spoil in (
        lambda m: m.bn1.running_var.fill_(float("nan")),
        lambda m: m.bn1.running_mean.fill_(float("inf")),
    ):
        model = settle(Block())
        spoil(model)
        accelerated = tilewright.accelerate(model)
        assert "Conv2d+BatchNorm2d+ReLU" not in work(accelerated, x)
        torch.testing.assert_close(
            outputs(accelerated, x), outputs(model, x), rtol=1e-4, atol=1e-4, equal_nan=True
        )
    half = settle(Block()).half()
    half.bn1.running_var.fill_(6e4)
    half.bn1.weight.data.fill_(1e-4)
    assert work(tilewright.accelerate(half), x.half()) == ["Conv2d+BatchNorm2d"]  # scaled, it would vanish


def test_linear_layers_fold_a_batchnorm_of_rows_only(work: Spy) -> None:
    model = settle(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()))
    accelerated = tilewright.accelerate(model)
    rows, sequences = torch.randn(4, 6), torch.randn(4, 5, 6)
    assert work(accelerated, rows) == ["Linear+BatchNorm1d+ReLU"]
    assert work(accelerated, sequences) == []
    assert_equal(model, accelerated, rows)
    assert_equal(model, accelerated, sequences)


class Backwards(nn.Sequential):
    def __iter__(self) -> Any:
        return reversed(list(self._modules.values()))


def test_sequences_in_an_order_of_their_own(work: Spy) -> None:
    model = settle(Backwards(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
    accelerated = tilewright.accelerate(model)
    assert work(accelerated, images(channels=4)) == []
    assert_equal(model, accelerated, images(channels=4))


def test_source_that_is_not_there(work: Spy) -> None:
    namespace: dict[str, Any] = {}
    exec("def forward(self, x):\n    return self.relu(self.bn(self.conv(x)))", namespace)
    model = settle(type("Unread", (Parts,), {"forward": namespace["forward"]})())
    accelerated: Any = tilewright.accelerate(model)
    assert work(accelerated, images(channels=4)) == []
    assert "Unread.forward could not be read" in str(accelerated.tilewright_report)
    assert_equal(model, accelerated, images(channels=4))


def test_source_that_was_edited_since(tmp_path: Path, work: Spy) -> None:
    file, source = (
        tmp_path / "edited.py",
        "def forward(self, x):\n    return self.relu(self.{}(self.conv(x)))\n",
    )
    file.write_text(source.format("bn"))
    namespace: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    file.write_text(source.format("xy"))
    model = settle(type("Edited", (Parts,), {"forward": namespace["forward"]})())
    assert work(tilewright.accelerate(model), images(channels=4)) == []


def test_arguments_keep_their_names() -> None:
    class Keywords(Parts):
        def forward(self, x: Tensor) -> Any:
            return self.relu(input=self.bn(input=self.conv(input=x)))

    model = settle(Keywords())
    assert_equal(model, tilewright.accelerate(model), images(channels=4))
    linear = nn.Linear(3, 3).eval()
    torch.testing.assert_close(tilewright.accelerate(linear)(input=torch.ones(3)), linear(torch.ones(3)))
