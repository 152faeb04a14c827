"""Random modules with random forward methods, as source: accelerated, they compute what they did."""

from __future__ import annotations

import copy
import itertools
import linecache
import random
from typing import Any

import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import nn

import tilewright
from tests.acceleration.models import settle
from tests.acceleration.support import assert_close, assert_restored, outputs, state_of

CHANNELS = 4
_numbers = itertools.count()


class Writer:
    """Writes a module of convolutions, BatchNorms, activations and containers, and what its forward does with them."""

    def __init__(self, choices: random.Random, depth: int) -> None:
        self.choices, self.depth = choices, depth
        self.modules: dict[str, nn.Module] = {}
        self.names: list[str] = ["x"]

    def module(self) -> nn.Module:
        statements = [self.statement() for _ in range(self.choices.randint(1, 6))]
        result = self.choices.choice([self.names[-1], self.expression(2), f"({', '.join(self.names[-2:])},)"])
        body = ["def forward(self, x):", "    x = x + 0", *(f"    {line}" for line in statements)]
        source = "\n".join([*body, f"    return {result}"]) + "\n"
        file = f"<random module {next(_numbers)}>"
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
        namespace: dict[str, Any] = {"torch": torch}
        exec(compile(source, file, "exec"), namespace)
        note(source)
        made = type("Random", (nn.Module,), {"forward": namespace["forward"]})()
        for name, module in self.modules.items():
            made.add_module(name, module)
        return made

    def statement(self) -> str:
        choices = self.choices
        value = self.expression(choices.randint(1, 3))
        if choices.random() < 0.1:
            value = f"{value} if x.sum() > 0 else {self.expression(1)}"
        if choices.random() < 0.6:  # as most code is written
            name = self.names[-1]
        else:
            name = f"v{len(self.names)}"
            self.names.append(name)
        if choices.random() < 0.1:
            return f"{name} = {value}; self.kept = {name}"
        return f"{name} = {value}"

    def expression(self, depth: int) -> str:
        choices = self.choices
        if depth == 0:
            # What was made last is what is mostly used.
            return self.names[-1] if choices.random() < 0.7 else choices.choice(self.names)
        inner = self.expression(depth - 1)
        kind = choices.random()
        if kind < 0.8:
            return f"self.{self.member()}({inner})"
        if kind < 0.87:
            return f"({inner} + {self.expression(0)})"
        if kind < 0.93:
            return f"torch.cat([{inner}, {self.expression(0)}], 1)[:, ::2]"
        return f"torch.relu({inner})"

    def member(self) -> str:
        """A module's name; one in four is used a second time."""
        if self.modules and self.choices.random() < 0.25:
            return self.choices.choice(list(self.modules))
        name = f"m{len(self.modules)}"
        self.modules[name] = self.make()
        return name

    def make(self) -> nn.Module:
        choices = self.choices
        kind = choices.random()
        if kind < 0.35:
            size = choices.choice([1, 3])
            return nn.Conv2d(
                CHANNELS,
                CHANNELS,
                size,
                padding=size // 2,
                groups=choices.choice([1, 1, 2, CHANNELS]),
                bias=choices.random() < 0.5,
                padding_mode=choices.choice(["zeros", "zeros", "replicate"]),
            )
        if kind < 0.55:
            return nn.BatchNorm2d(CHANNELS, affine=choices.random() < 0.8)
        if kind < 0.78:
            made = [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.ReLU6()]
            return choices.choice(made)
        if self.depth == 0 or kind < 0.82:
            return nn.Identity()
        if kind < 0.93:
            return nn.Sequential(*(self.make() for _ in range(choices.randint(1, 4))))
        inner = Writer(choices, self.depth - 1)
        inner.names = ["x"]
        return First(inner.module())


class First(nn.Module):
    """The first of what a module returns."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        found = self.inner(x)
        return found[0] if isinstance(found, tuple) else found


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), measured=st.sampled_from([False] * 5 + [True]))
def test_random_modules(seed: int, measured: bool) -> None:
    torch.manual_seed(seed)
    model: Any = settle(Writer(random.Random(seed), depth=2).module())
    last = seed % 3 == 0
    x = torch.randn(2, CHANNELS, 5, 6)
    if last:
        model, x = (part.to(memory_format=torch.channels_last) for part in (model, x))
    model.kept = None
    theirs = outputs(model, x)
    model.kept = None
    exact = outputs(copy.deepcopy(model).double(), x.double())
    if not all(bool(y.isfinite().all()) for y in exact):
        return
    before = state_of(model)
    accelerated: Any = tilewright.accelerate(model, x if measured else None)
    for _ in range(2):
        accelerated.kept = None
        found = outputs(accelerated, x)
        assert_close(found, theirs, exact)
        assert not any(hasattr(y, "_tilewright_done") for y in found)
    copied = copy.deepcopy(accelerated)
    assert_close(outputs(copied, x), theirs, exact)
    tilewright.restore(copied)
    for ours, torchs in zip(outputs(copied, x), theirs, strict=True):
        assert torch.equal(ours, torchs)
    assert_restored(before, model)
    # In training a BatchNorm divides by what its input varies, so that rounding counts for much: in float64.
    for one in (model, accelerated):
        one.kept = None
        one.double().train()
    for ours, torchs in zip(outputs(accelerated, x.double()), outputs(model, x.double()), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-5)
