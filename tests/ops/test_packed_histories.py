"""Random histories of who holds a layer's weight, who writes to it and who lets go: no call may be out of date."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.ops.layers import Kind, expected, inputs, like
from tilewright.holders import weight_of
from tilewright.nn import PackedLayer

Index = tuple[int, ...]
Held = tuple[Callable[[Any, Index, float], None], Any]
"""How to write an element of the weight through something, and the thing."""


def _through_index(held: Any, index: Index, value: float) -> None:
    held[index] = value


def _through_data(held: Any, index: Index, value: float) -> None:
    held.data[index] = value


def _through_key(held: Any, index: Index, value: float) -> None:
    held["weight"].data[index] = value


def _through_module(held: Any, index: Index, value: float) -> None:
    held.weight.data[index] = value


def _through_storage(held: Any, index: Index, value: float) -> None:
    torch.empty(0).set_(held)[sum(index)] = value  # type: ignore[call-overload]


HOLDS: tuple[Callable[[PackedLayer], Held], ...] = (
    lambda module: (_through_data, module.weight),
    lambda module: (_through_index, module.weight.detach()),
    lambda module: (_through_data, module.weight.data[:]),
    lambda module: (_through_index, module.weight.detach().numpy()),
    lambda module: (_through_index, memoryview(module.weight.detach().numpy())),
    lambda module: (_through_index, torch.from_dlpack(module.weight.detach())),
    lambda module: (_through_storage, module.weight.untyped_storage()),
    lambda module: (_through_key, module.state_dict()),
    lambda module: (_through_key, module._parameters),
    lambda module: (_through_module, copy.copy(module)),
)


def _change(module: PackedLayer, choose: random.Random) -> None:
    """What torch counts, and what changes the module's state."""
    which = choose.randrange(7)
    if which == 0:
        with torch.no_grad():
            module.weight[choose.randrange(len(module.weight))] = choose.random()
    elif which == 1:
        module.weight.data = torch.randn_like(module.weight)
    elif which == 2:
        module.weight = torch.nn.Parameter(torch.randn_like(module.weight))
    elif which == 3:
        module.load_state_dict(like(module).state_dict(), assign=choose.random() < 0.5)
    elif which == 4:
        module.train().eval()
    elif which == 5:
        module(inputs(module)).sum().backward()
    else:
        bias = torch.nn.Parameter(torch.randn(len(weight_of(module))))
        module.bias = bias if choose.random() < 0.5 else None


@pytest.mark.parametrize("seed", range(20))
def test_no_history_leads_to_an_outdated_result(kind: Kind, seed: int) -> None:
    choose, module = random.Random(seed), kind.make()
    x = inputs(module)
    held: list[Held] = []
    history: list[str] = []
    served = 0
    for number in range(60):
        if number % 20 == 0:
            held.clear()  # or else somebody may hold the weight from beginning to end
        step = choose.choices(["hold", "write", "let go", "change", "rest"], [2, 4, 4, 1, 3])[0]
        history.append(step)
        if step == "hold":
            held.append(choose.choice(HOLDS)(module))
        elif step == "write" and held:
            write, thing = choose.choice(held)
            write(thing, tuple(map(choose.randrange, weight_of(module).shape)), choose.random())
            del thing
        elif step == "let go" and held:
            held.pop(choose.randrange(len(held)))
        elif step == "change":
            _change(module, choose)
        for _ in range(choose.choice([0, 1, 1, 2])):
            with torch.no_grad():
                torch.testing.assert_close(
                    module(x), expected(module, x), rtol=1e-5, atol=1e-5, msg=" ".join(history)
                )
            served += module.packing() == f"packed, {module.packed_bytes()} bytes"
    assert served > 3, "the packed weight was hardly ever used, so this proved nothing"
