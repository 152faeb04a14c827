from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.acceleration.support import Spy
from tilewright.acceleration.fused import Fused


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Spy:
    done: list[str] = []
    fused = Fused._fused

    def spy(layer: Fused, x: Tensor, followers: tuple[Any, ...]) -> Tensor | None:
        y = fused(layer, x, followers)
        if y is not None:
            done.append("+".join(type(module).__name__ for module in (layer, *followers)))
        return y

    monkeypatch.setattr(Fused, "_fused", spy)

    def run(model: nn.Module, *inputs: Any) -> list[str]:
        done.clear()
        with torch.no_grad():
            model(*inputs)
        return list(done)

    return run
