"""One shape's random operands and the ways to run them; ``<operation>/operands.py`` fills this in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from tilewright.benchmark.accuracy import Judge
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import Shape
from tilewright.benchmark.timing import Contender

_MOST_SETS = 128
_MOST_BYTES = 1 << 30

ONEDNN_ACTIVATIONS = {
    "none": ("none", ""),
    "relu": ("relu", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
}
"""The names of oneDNN's fused activations: algorithm and variant."""

S = TypeVar("S", bound=Shape)


@dataclass(slots=True)
class Lineup:
    """Contenders that can run, what each of ours runs, and why the others cannot."""

    contenders: list[Contender] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    precisions: dict[str, str] = field(default_factory=dict)
    """The precision that a contender is judged by, where it is not the one that is measured."""


class Work(Protocol):
    """What a call computes, and what it must move between main memory and the processor."""

    def describe(self) -> str: ...

    def flops(self) -> int: ...

    def bytes(self) -> int: ...


class Subject(ABC, Generic[S]):
    """What is timed of one shape: contenders take the number of a set of inputs, from 0 to `sets`."""

    sets: int

    def __init__(self, shape: S, settings: Settings, device: torch.device) -> None:
        self.shape, self.settings, self.device = shape, settings, device

    @abstractmethod
    def work(self) -> Work:
        """The work of one call."""

    @abstractmethod
    def judge(self, precision: str) -> Judge:
        """What knows the result of set 0, and how far a contender of this precision may be from it."""

    def required_flops(self) -> int:
        """Operations that nobody can leave out, multiply-adds counted as two."""
        return self.work().flops()

    def flops_tell(self, detail: str) -> bool:
        """Whether a kernel of ours (of torch: no detail) cannot beat the peak by computing less than it counts."""
        return True


class Operands(Subject[S]):
    """Sets of random operands that together are larger than the last-level cache, where memory allows."""

    def __init__(
        self, shape: S, settings: Settings, device: torch.device, llc_bytes: int, seed: int = 0
    ) -> None:
        super().__init__(shape, settings, device)
        nbytes = max(1, settings.dtype.itemsize * shape.elements())
        self.sets = max(2, min(_MOST_SETS, -(-2 * llc_bytes // nbytes), _MOST_BYTES // nbytes))
        self._generator = torch.Generator(device).manual_seed(seed)

    def random(self, *sizes: int) -> Tensor:
        """Standard normal, in the dtype that is measured."""
        values = torch.randn(sizes, generator=self._generator, device=self.device)
        return values.to(self.settings.dtype)

    @abstractmethod
    def call(self, index: int) -> Tensor:
        """tilewright's public function."""

    @abstractmethod
    def problem(self) -> tuple[str, Any]:
        """(kernel folder, problem) of `call`, under the options in force."""

    def work(self) -> Work:
        found: Work = self.problem()[1]
        return found

    @abstractmethod
    def eager(self) -> Iterable[Contender]:
        """What torch users write today, in every layout."""

    @abstractmethod
    def add_vendor(self, found: Lineup) -> None:
        """What eager code reaches only by asking for it: a weight packed once, a fused epilogue.

        Called directly and not through our aten backend, whose Python would count against torch.
        """

    def compiled(self) -> tuple[Callable[..., Tensor], Callable[[int], tuple[Any, ...]]] | str:
        """What torch.compile is given, and its arguments for a set; or why it is given nothing."""
        return "torch.compile does not trace this"

    def also(self) -> Iterable[tuple[str, Callable[[int], Tensor], Callable[[], tuple[str, Any]]]]:
        """Further calls of ours: name, call, and what is `problem` for it."""
        return ()

    def layers(self) -> list[nn.Module] | None:
        """A layer of `tilewright.nn` for each set, with a weight of its own: one that others hold too would not be
        packed. None where there is no such layer."""
        return None

    def layer_arguments(self, index: int) -> tuple[Any, ...]:
        """What the layer is called with."""
        raise NotImplementedError(f"{type(self).__name__} has no layers")
