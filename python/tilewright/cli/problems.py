"""Problem objects of listed shapes, without the memory that their operands would take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from tilewright import settings as options
from tilewright.benchmark.run import Settings
from tilewright.benchmark.shapes import Shape
from tilewright.ops import PROBLEMS


def problem_of(shape: Shape, settings: Settings, *, frozen: bool = False) -> tuple[str, Any]:
    """(operation, problem) of the public function that `settings.layout` names; `frozen`, of a packed layer."""
    device = torch.device(settings.device)
    n, k = shape.n, shape.k
    # Allocated, never touched: the system backs no page of it.
    x = torch.empty(shape.m, k, dtype=settings.dtype, device=device)
    layout = "linear" if frozen else settings.layout
    weight = torch.empty(*((n, k) if layout == "linear" else (k, n)), dtype=settings.dtype, device=device)
    bias = torch.empty(n, dtype=settings.dtype, device=device) if settings.bias else None
    precision: Any = settings.precision if device.type == "cuda" else "auto"
    with options.options(precision=precision):
        given: dict[str, Any] = {"frozen": True} if frozen else {}
        return PROBLEMS[layout](x, weight, bias=bias, activation=settings.activation, **given)


def problems_of(
    shapes: Iterable[Shape], settings: Settings, *, frozen: bool = False
) -> dict[tuple[str, Any], None]:
    """As `tuner.recording` collects them; with `frozen`, each shape's problem as a packed layer's, too."""
    found: dict[tuple[str, Any], None] = {}
    for shape in shapes:
        found[problem_of(shape, settings)] = None
        if frozen:
            found[problem_of(shape, settings, frozen=True)] = None
    return found


def on_other_device(problem: Any, *, precision: str) -> Any:
    """The same CPU problem as it would be on a GPU that is not here, operands aligned as torch allocates them."""
    wide = problem.dtype == torch.float32
    return replace(problem, device="cuda", threads=0, alignment=16, precision=precision if wide else "ieee")
