"""Times bound kernels side by side, with a probe beside them that notices a machine slowing down."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.frozen import FrozenOperand, thawed_all
from tilewright.kernels.interface import DeviceSpec, Launch
from tilewright.tuner.device import core

_SAMPLE_SECONDS = 2e-3
"""A sample repeats a short kernel until it lasts this long, past the clock's resolution and call noise."""

_MOST_CALLS = 200
_MANY_SAMPLES = 20
_MOST_SETS = 64
_MOST_SET_BYTES = 1 << 30
_MOST_FROZEN_SET_BYTES = 256 << 20
"""Where every set also holds what each of the kernels packed of its weight."""

STEADY = 0.8
"""A round counts only if the probe beside it ran at this share of its best rate or more."""

_MOST_REPEATS = 12


@dataclass(slots=True)
class Entrant:
    """A kernel in the race."""

    backend: str
    config: Any
    launch: Launch
    calls: int = 1
    samples: list[float] = field(default_factory=list)

    @property
    def typical(self) -> float:
        """The median of many samples, the lower quartile of few.

        Other work on the machine lengthens a sample and nothing shortens it: by medians of a few samples, one and the
        same kernel under two names differed by 1.4 times. Of many samples the median also weighs how often a kernel
        is slow by itself, as one with a barrier more is (by the quartile such a one won that took 8 % longer in use).
        """
        ordered = sorted(self.samples)
        part = 2 if len(ordered) >= _MANY_SAMPLES else 4
        return ordered[len(ordered) // part] if ordered else float("inf")


class Clock:
    """Measures launches on one kind of device, over sets of inputs that take turns."""

    def __init__(self, device: DeviceSpec, sets: Sequence[Sequence[Any]]) -> None:
        self._cuda = device.kind == "cuda"
        self._sets = sets
        self._next = 0
        self._llc_bytes = device.llc_bytes
        # The results of the last calls: while they are kept, no call finds the memory of its own still in a cache.
        self._results: list[Any] = [None]

    def seconds(self, entrant: Entrant, calls: int) -> float:
        """Seconds per call, over that many calls on successive sets of inputs."""
        sets, launch, count = self._sets, entrant.launch, len(self._sets)
        results, kept = self._results, len(self._results)
        turn = self._next
        self._next += calls
        if self._cuda:
            make_event: Any = torch.cuda.Event
            start, end = make_event(enable_timing=True), make_event(enable_timing=True)
            start.record()
            for i in range(turn, turn + calls):
                results[i % kept] = launch(*sets[i % count])
            end.record()
            end.synchronize()
            return max(float(start.elapsed_time(end)) * 1e-3 / calls, 1e-9)
        begin = time.perf_counter_ns()
        for i in range(turn, turn + calls):
            results[i % kept] = launch(*sets[i % count])
        return max((time.perf_counter_ns() - begin) * 1e-9 / calls, 1e-9)

    def first_call(self, entrant: Entrant) -> float:
        """One call, for the entrant's number of calls per sample."""
        once = self.seconds(entrant, 1)
        if len(self._results) == 1:
            self._results *= self._enough(self._results[0])
        entrant.calls = max(1, min(_MOST_CALLS, int(_SAMPLE_SECONDS / once)))
        return once

    def _enough(self, result: Any) -> int:
        """How many results fill the last-level cache."""
        each = result if isinstance(result, tuple) else (result,)
        size = sum(x.untyped_storage().nbytes() for x in each if isinstance(x, Tensor))
        return max(1, min(-(-self._llc_bytes // size), _MOST_SETS)) if size else 1

    def sample(self, entrant: Entrant) -> float:
        """Seconds per call. One call goes before, untimed: what ran last left the caches and threads its way."""
        if entrant.calls > 1:
            self.seconds(entrant, 1)
        return self.seconds(entrant, entrant.calls)


def rotating_sets(inputs: Sequence[Any], device: DeviceSpec) -> list[list[Any]]:
    """Copies of the inputs, together twice the size of the last-level cache where so many are sensible.

    A layer's operands were pushed out of the caches by the other layers since its last call; timed on one set
    of inputs, a kernel looks 15–25 % faster than it will be.
    """
    tensors = [x for x in thawed_all(inputs) if isinstance(x, Tensor)]
    size = sum(x.untyped_storage().nbytes() for x in tensors) or 1
    wanted = -(-2 * device.llc_bytes // size) if device.llc_bytes else 2
    frozen = any(isinstance(x, FrozenOperand) for x in inputs)
    most = _MOST_FROZEN_SET_BYTES if frozen else _MOST_SET_BYTES
    count = max(2, min(wanted, _MOST_SETS, most // size))
    return [list(inputs)] + [[_copy(x) for x in inputs] for _ in range(count - 1)]


def _copy(value: Any) -> Any:
    """A tensor of the same strides and alignment over its own memory, which `clone` does not promise."""
    if isinstance(value, FrozenOperand):
        return value.with_tensors(_copy)
    if not isinstance(value, Tensor):
        return value
    storage: Any = value.untyped_storage()
    empty = torch.empty(0, dtype=value.dtype, device=value.device)
    return empty.set_(storage.clone(), value.storage_offset(), value.shape, value.stride())


Anchor = Callable[[], float]
"""A probe of the device's speed right now, in any unit; more is faster."""


def make_anchor(device: DeviceSpec) -> Anchor:
    """A probe of two milliseconds or so."""
    module = core()
    if device.kind == "cpu" and module is not None:
        threads = torch.get_num_threads()
        return lambda: float(module.peak_flops(device.arch, "f32", threads, 0.002))
    where = "cuda" if device.kind == "cuda" else "cpu"
    size = 2048 if where == "cuda" else 256
    dtype = torch.bfloat16 if where == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=where).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def probe() -> float:
        if where == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter_ns()
        for _ in range(4):
            torch.mm(a, b, out=out)
        if where == "cuda":
            torch.cuda.synchronize()
        return 1e9 / (time.perf_counter_ns() - begin)

    probe()
    return probe


class Rounds:
    """Interleaved rounds: in each, every entrant is sampled once between two probes."""

    def __init__(self, clock: Clock, anchor: Anchor, expired: Callable[[], bool]) -> None:
        self._clock = clock
        self._anchor = anchor
        self._expired = expired
        self._best_rate = 0.0
        self._shuffle = random.Random(0).shuffle
        self._repeats = 0
        self.unsteady = 0
        """Rounds that were kept although the probe fell, because the repeats were used up."""

    def run(self, entrants: Sequence[Entrant]) -> None:
        """One round that counts."""
        while True:
            before = self._anchor()
            # Shuffled: in a fixed cycle each would always follow the same one, and inherit its caches (198 µs
            # became 291 µs behind an unlucky neighbour).
            order = list(entrants)
            self._shuffle(order)
            times = [self._clock.sample(entrant) for entrant in order]
            after = self._anchor()
            self._best_rate = max(self._best_rate, before, after)
            steady = min(before, after) >= STEADY * self._best_rate
            if steady or self._repeats >= _MOST_REPEATS or self._expired():
                break
            self._repeats += 1
        self.unsteady += not steady
        for entrant, seconds in zip(order, times, strict=True):
            entrant.samples.append(seconds)
