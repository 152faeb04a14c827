"""Problem objects of listed shapes, without the memory that their operands would take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from tilewright import settings as options
from tilewright.benchmark.contenders import admits_more
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import Shape
from tilewright.benchmark.suite import operation_suite


def problem_of(shape: Shape, settings: Settings, *, frozen: bool = False) -> tuple[str, Any]:
    """(operation, problem) of the public function under these settings; `frozen`, of a packed layer."""
    # On CPUs there is nothing of torch's to follow, and only tf32 admits more than the default.
    precision: Any = settings.precision
    if torch.device(settings.device).type == "cpu" and precision == "ieee":
        precision = "auto"
    with options.options(precision=precision):
        return operation_suite(settings.operation).problem(shape, settings, frozen=frozen)


def problems_of(
    shapes: Iterable[Shape], settings: Settings, *, frozen: bool = False
) -> dict[tuple[str, Any], None]:
    """As `tuner.recording` collects them; with `frozen`, each shape's problem as a packed layer's, too."""
    found: dict[tuple[str, Any], None] = {}
    for shape in shapes:
        found[problem_of(shape, settings)] = None
        if frozen and settings.direction == "forward":
            found[problem_of(shape, settings, frozen=True)] = None
    return found


def timed_problems(shapes: Iterable[Shape], settings: Settings) -> dict[tuple[str, Any], None]:
    """All that ``bench`` runs of ours: each layout, packed layers, and these where tf32 admits more."""
    found: dict[tuple[str, Any], None] = {}
    on_cpu = torch.device(settings.device).type == "cpu"
    for shape in shapes:
        for layout in operation_suite(settings.operation).layouts(settings):
            found[problem_of(shape, replace(settings, layout=layout))] = None
        if not on_cpu or settings.direction != "forward":
            continue
        folder, strict = problem_of(shape, settings, frozen=True)
        found[folder, strict] = None
        if settings.precision == "ieee":
            loose = problem_of(shape, replace(settings, precision="tf32"), frozen=True)
            if admits_more(folder, loose[1], strict):
                found[loose] = None
    return found


def on_other_device(problem: Any, *, precision: str) -> Any:
    """The same CPU problem as it would be on a GPU that is not here, operands aligned as torch allocates them."""
    wide = problem.dtype == torch.float32
    return replace(problem, device="cuda", threads=0, alignment=16, precision=precision if wide else "ieee")
