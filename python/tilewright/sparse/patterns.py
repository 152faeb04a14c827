"""Which weights go together: single ones, N of every M, blocks, channels.

A weight is seen as a stack of matrices (T, O, I) of outputs by inputs: one of a linear layer's weight (O, I), one per
kernel position of a convolution's (O, I / groups, ...). Groups of M and blocks lie inside such a matrix, so they never
reach over from one position of the kernel to the next.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, ShapeError

_SYNTAX = '"unstructured", "N:M" such as "2:4", "block(r, c)", "channel" or "channel(1)"'


def as_matrices(weight: Tensor) -> Tensor:
    """(O, I, ...) as (T, O, I), a matrix per kernel position; a view where that is possible."""
    taps = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2)
    return taps.permute(2, 0, 1)


def from_matrices(matrices: Tensor, shape: torch.Size) -> Tensor:
    """The way back of `as_matrices`."""
    return matrices.permute(1, 2, 0).reshape(shape)


class Pattern(ABC):
    """What is removed as one: the pattern's *units*, each a single weight, a block or a channel.

    ``str(pattern)`` is the text that `parse_pattern` reads.
    """

    least_dims = 2
    """Dimensions that a weight must have."""

    def check(self, shape: torch.Size, where: str) -> None:
        """Raises `ShapeError` unless the pattern makes sense for weights of this shape."""
        if len(shape) < self.least_dims:
            raise ShapeError(
                f"{where} has shape {tuple(shape)}; expected (O, I, ...), outputs by inputs, for the pattern "
                f'{self}; use "unstructured"'
            )

    @abstractmethod
    def units(self, shape: torch.Size) -> int:
        """How many there are in a weight of this shape."""

    @abstractmethod
    def unit_scores(self, scores: Tensor) -> Tensor:
        """(units,): the mean of each unit's scores, so that units at the edges compare with whole ones."""

    @abstractmethod
    def expand(self, kept: Tensor, shape: torch.Size) -> Tensor:
        """The mask of this shape from (units,) of those that are kept."""

    def first(self, scores: Tensor) -> Tensor | None:
        """(units,) of those that go before all others; None if the scores alone decide."""
        return None

    def own_amount(self, shape: torch.Size) -> int | None:
        """How many units the pattern removes by itself; None if that is for the user to say."""
        return None


@dataclass(frozen=True, slots=True)
class Unstructured(Pattern):
    """Any weight by itself."""

    least_dims = 0

    def units(self, shape: torch.Size) -> int:
        return shape.numel()

    def unit_scores(self, scores: Tensor) -> Tensor:
        return scores.reshape(-1)

    def expand(self, kept: Tensor, shape: torch.Size) -> Tensor:
        return kept.reshape(shape)

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True, slots=True)
class NofM(Pattern):
    """At most `n` of every `m` consecutive inputs of an output, ``2:4`` for instance.

    Where m does not divide the inputs, the last group is smaller, and keeps at most n too.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise ArgumentError(
                f"sparse: pattern is {self}; expected N:M with 1 <= N < M, which keeps N of every M"
            )

    def units(self, shape: torch.Size) -> int:
        return shape.numel()

    def unit_scores(self, scores: Tensor) -> Tensor:
        return scores.reshape(-1)

    def expand(self, kept: Tensor, shape: torch.Size) -> Tensor:
        return kept.reshape(shape)

    def first(self, scores: Tensor) -> Tensor:
        """All but each group's n best; of equal ones the earlier are kept."""
        return ~from_matrices(self.best(as_matrices(scores)), scores.shape).reshape(-1)

    def best(self, matrices: Tensor) -> Tensor:
        """Whether each entry of (..., I) is among the n best of its group of m."""
        inputs = matrices.shape[-1]
        groups = -(-inputs // self.m)
        # What fills up the last group is behind all that is in it: no score is lower, and of equals the earlier win.
        padded = torch.nn.functional.pad(matrices, (0, groups * self.m - inputs), value=-torch.inf)
        grouped = padded.unflatten(-1, (groups, self.m)) if groups else padded.unsqueeze(-1)
        rank = torch.zeros(grouped.shape, dtype=torch.int16, device=grouped.device)
        place = torch.arange(grouped.shape[-1], device=grouped.device)
        for rival in range(grouped.shape[-1]):
            other = grouped[..., rival : rival + 1]
            rank += (other > grouped) | ((other == grouped) & (rival < place))
        return (rank < self.n).flatten(-2)[..., :inputs]

    def own_amount(self, shape: torch.Size) -> int:
        inputs = shape[1]
        whole, rest = divmod(inputs, self.m)
        per_row = whole * (self.m - self.n) + max(0, rest - self.n)
        return per_row * (shape.numel() // inputs) if inputs else 0

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@dataclass(frozen=True, slots=True)
class Block(Pattern):
    """`r` outputs by `c` inputs (at one kernel position), counted from the first; smaller ones at the edges."""

    r: int
    c: int

    def __post_init__(self) -> None:
        if self.r < 1 or self.c < 1:
            raise ArgumentError(f"sparse: pattern is {self}; expected block(r, c) with r and c of 1 or more")

    def _grid(self, shape: torch.Size) -> tuple[int, int, int]:
        """(T, blocks of outputs, blocks of inputs)."""
        outputs, inputs, *taps = shape
        return torch.Size(taps).numel(), -(-outputs // self.r), -(-inputs // self.c)

    def units(self, shape: torch.Size) -> int:
        return torch.Size(self._grid(shape)).numel()

    def unit_scores(self, scores: Tensor) -> Tensor:
        taps, down, across = self._grid(scores.shape)
        outputs, inputs = scores.shape[:2]
        if scores.numel() == 0:
            return scores.new_zeros(taps * down * across)
        edges = (0, across * self.c - inputs, 0, down * self.r - outputs)
        padded = torch.nn.functional.pad(as_matrices(scores), edges)
        blocks = padded.reshape(taps, down, self.r, across, self.c)
        total = blocks.sum((2, 4), dtype=torch.float64)
        heights = _extents(outputs, self.r, scores.device)
        widths = _extents(inputs, self.c, scores.device)
        return (total / (heights[:, None] * widths)).reshape(-1)

    def expand(self, kept: Tensor, shape: torch.Size) -> Tensor:
        blocks = kept.reshape(self._grid(shape))
        matrices = blocks.repeat_interleave(self.r, 1).repeat_interleave(self.c, 2)
        return from_matrices(matrices[:, : shape[0], : shape[1]], shape)

    def __str__(self) -> str:
        return f"block({self.r}, {self.c})"


@dataclass(frozen=True, slots=True)
class Channel(Pattern):
    """All weights of an output (``dim = 0``: a linear layer's row, a convolution's filter) or of an input (1)."""

    dim: int = 0

    def __post_init__(self) -> None:
        if self.dim not in (0, 1):
            raise ArgumentError(
                f"sparse: pattern is {self}; expected channel(0) for outputs or channel(1) for inputs"
            )

    def units(self, shape: torch.Size) -> int:
        return shape[self.dim]

    def unit_scores(self, scores: Tensor) -> Tensor:
        if scores.numel() == 0:
            return scores.new_zeros(self.units(scores.shape))
        others = [dim for dim in range(scores.dim()) if dim != self.dim]
        return scores.mean(others, dtype=torch.float64)

    def expand(self, kept: Tensor, shape: torch.Size) -> Tensor:
        sizes = [1] * len(shape)
        sizes[self.dim] = -1
        return kept.reshape(sizes).expand(shape).contiguous()

    def __str__(self) -> str:
        return "channel" if self.dim == 0 else f"channel({self.dim})"


def parse_pattern(pattern: str | Pattern) -> Pattern:
    """The pattern that the text says.

    Raises:
        ArgumentError: it says none; the message lists what there is.
    """
    if isinstance(pattern, Pattern):
        return pattern
    text = pattern.replace(" ", "") if isinstance(pattern, str) else ""
    if text == "unstructured":
        return Unstructured()
    if found := re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", text):
        return NofM(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"block\(([0-9]{1,6}),([0-9]{1,6})\)", text):
        return Block(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"channel(?:\(([0-9])\))?", text):
        return Channel(int(found[1] or 0))
    raise ArgumentError(f"sparse: pattern is {pattern!r}; expected {_SYNTAX}")


def _extents(size: int, step: int, device: torch.device) -> Tensor:
    """How many of `size` rows each block of `step` has: the last may have fewer."""
    starts = torch.arange(0, size, step, device=device)
    return (size - starts).clamp(max=step)
