"""Random parameters under which a deep network's activations stay of order one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Generator, nn

Model = TypeVar("Model", bound=nn.Module)


def build(make: Callable[[], Model], seed: int) -> Model:
    """The module that `make` returns, on the CPU, with parameters that depend on the seed alone.

    It is made without memory first: torch's own initialization, which is not kept, would take as long again.
    """
    with torch.device("meta"):
        model = make()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            _initialize(module, generator)
    return model


def damp(module: nn.Module, gain: float) -> None:
    """Marks the last layer of a residual branch, whose output is to be so much smaller than the others'."""
    module.initial_gain = gain  # type: ignore[assignment]


def _initialize(module: nn.Module, generator: Generator) -> None:
    gain = getattr(module, "initial_gain", 1.0)
    if isinstance(module, nn.Conv2d | nn.Linear):
        # He et al., "Delving deep into rectifiers" (2015): E[y²] = E[x²]·2 / 2 behind a ReLU.
        inputs = module.weight[0].numel()
        module.weight.normal_(0, gain * (2 / inputs) ** 0.5, generator=generator)
        if module.bias is not None:
            module.bias.normal_(0, 0.1 * gain, generator=generator)
    elif isinstance(module, nn.BatchNorm2d):
        # As after training: no channel's statistics are 0 and 1.
        module.reset_running_stats()
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.normal_(0, 0.2, generator=generator)
        module.running_var.uniform_(0.5, 1.5, generator=generator)
        module.weight.uniform_(0.7 * gain, 1.3 * gain, generator=generator)
        module.bias.normal_(0, 0.2 * gain, generator=generator)
    elif isinstance(module, nn.LayerNorm):
        module.weight.uniform_(0.7, 1.3, generator=generator)
        module.bias.normal_(0, 0.1, generator=generator)
    else:  # embeddings, and parameters that a module keeps itself: positions, a class token
        for parameter in module.parameters(recurse=False):
            parameter.normal_(0, 1, generator=generator)
