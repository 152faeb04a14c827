"""What a benchmark consists of: of an operation, or of whole models."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tilewright.benchmark.contenders import Line, lineup
from tilewright.benchmark.operands import Operands, Subject
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import Shape

S = TypeVar("S", bound=Shape)
Posed = TypeVar("Posed", bound=Shape, contravariant=True)


class PoseProblem(Protocol[Posed]):
    """(kernel folder, problem) of a shape, without the memory that its operands would take.

    Of the public function, or with `frozen` of a layer with a packed weight.
    """

    def __call__(self, shape: Posed, settings: Settings, *, frozen: bool = False) -> tuple[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Suite(Generic[S]):
    """Lists of shapes, what is done with each, and the names of the contenders."""

    operation: str
    lists: Mapping[str, Sequence[S]]
    operands: Callable[..., Subject[S]]
    lineup: Line
    torch: tuple[str, ...]
    """Every contender that is not ours; the best of those that ran is what ours is held against."""

    rivals: str = "best of torch"
    """What that best is called."""

    rest_s: float = 0.0
    """Seconds between contenders, for threads to stop spinning, where not all of them use the same ones."""

    eager: Callable[[Settings], tuple[str, ...]]
    """What torch users write today: the faster of these is the baseline."""

    baseline: Callable[[Settings], str]
    """The baseline's name."""

    summed: tuple[str, ...]
    """The contenders of ours that are summed up over a list."""


@dataclass(frozen=True, kw_only=True)
class OperationSuite(Suite[S]):
    """The benchmark of an operation, which poses its kernels problems."""

    operands: Callable[..., Operands[S]]
    problem: PoseProblem[S]
    lineup: Line = lineup
    layouts: Callable[[Settings], tuple[str, ...]]
    """The layouts that ours is timed in, that of the settings first."""


def suite(name: str) -> Suite[Any]:
    """The benchmark of an operation, or ``models``: ``<name>/suite.py``."""
    module = importlib.import_module(f"tilewright.benchmark.{name}.suite")
    found: Suite[Any] = module.SUITE
    return found


def operation_suite(operation: str) -> OperationSuite[Any]:
    """The benchmark of an operation."""
    found = suite(operation)
    assert isinstance(found, OperationSuite)
    return found
