"""What the benchmark of an operation consists of."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tilewright.benchmark.operands import Operands
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import Shape

S = TypeVar("S", bound=Shape)
Posed = TypeVar("Posed", bound=Shape, contravariant=True)


class PoseProblem(Protocol[Posed]):
    """(kernel folder, problem) of a shape, without the memory that its operands would take.

    Of the public function, or with `frozen` of a layer with a packed weight.
    """

    def __call__(self, shape: Posed, settings: Settings, *, frozen: bool = False) -> tuple[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Suite(Generic[S]):
    """Lists of shapes, their operands and problems, and the names of the contenders."""

    operation: str
    lists: Mapping[str, Sequence[S]]
    operands: Callable[..., Operands[S]]
    problem: PoseProblem[S]
    torch: tuple[str, ...]
    """Every contender that is torch's; the best of those that ran is what ours is held against."""

    eager: Callable[[Settings], tuple[str, ...]]
    """What torch users write today: the faster of these is the baseline."""

    baseline: Callable[[Settings], str]
    """The baseline's name."""

    summed: tuple[str, ...]
    """The contenders of ours that are summed up over a list."""

    layouts: Callable[[Settings], tuple[str, ...]]
    """The layouts that ours is timed in, that of the settings first."""


def suite(operation: str) -> Suite[Any]:
    """The benchmark of an operation: ``<operation>/suite.py``."""
    module = importlib.import_module(f"tilewright.benchmark.{operation}.suite")
    found: Suite[Any] = module.SUITE
    return found
