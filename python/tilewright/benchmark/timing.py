"""Races several ways of doing the same thing, in one process and interleaved.

Every round times each contender once, in a new order, on buffers that rotate past the last-level cache.
A short probe of the machine's pace runs before and after each round; a round in which the pace fell
(throttling, a neighbour on the same machine) is thrown away and run again. What counts is the median.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

_PACE_FELL = 0.85
"""A round counts only if the probes around it reach this share of the best probe seen."""

_CRAWLS = 20.0
"""A contender this many times slower than the fastest is timed three times only."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do it. ``run(i)`` does it once with the i-th set of buffers.

    `scope` is entered around every timed stretch, not around every call: what it costs is not measured.
    `calls_per_run` is how often one ``run`` does it (a replayed CUDA graph holds several calls).
    """

    name: str
    run: Callable[[int], Any]
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext
    calls_per_run: int = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call: the median and the 20th and 80th percentile over `samples` stretches."""

    p50: float
    p20: float
    p80: float
    samples: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        return cls(quantile(seconds, 0.5), quantile(seconds, 0.2), quantile(seconds, 0.8), len(seconds))


@dataclass(frozen=True, slots=True)
class Race:
    """What came of a race. `repeated` rounds were thrown away; `steady` is False if some had to be kept."""

    timings: Mapping[str, Timing]
    failures: Mapping[str, str]
    rounds: int
    repeated: int
    steady: bool


class Clock(Protocol):
    """Times a stretch of calls on a device."""

    def time(self, stretch: Callable[[], None]) -> float: ...


class WallClock:
    """For work that is over when the call returns."""

    def time(self, stretch: Callable[[], None]) -> float:
        began = time.perf_counter()
        stretch()
        return time.perf_counter() - began


class CudaClock:
    """For work on the current CUDA stream, by events on that stream."""

    def time(self, stretch: Callable[[], None]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        stretch()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def clock_for(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else WallClock()


def race(
    contenders: Sequence[Contender],
    *,
    clock: Clock,
    probe: Callable[[], float],
    sets: int = 1,
    budget_s: float = 1.0,
    rounds: tuple[int, int] = (5, 50),
    stretch_s: float = 5e-4,
    rest_s: float = 0.0,
) -> Race:
    """Times every contender.

    Args:
        contenders: with distinct names. One that raises is left out and named in `failures`.
        clock: how stretches are timed.
        probe: a short measurement of the machine's pace; higher is faster.
        sets: how many sets of buffers ``run`` may be given.
        budget_s: rounds go on until this much time is spent, within the bounds of `rounds`.
        rounds: the fewest and the most rounds that count.
        stretch_s: the least length of one timed stretch; short calls are repeated to fill it.
        rest_s: how long nothing runs before each stretch, and then one call that is not timed. Threads that wait for
            work spin, libgomp's for 5 ms on an AMD EPYC (Zen 5): a contender with threads of its own (ONNX Runtime)
            would share the cores with those of the one before it.
    """
    runners, failures = _calibrated(contenders, clock, sets, stretch_s, rest_s)
    samples: dict[str, list[float]] = {runner.contender.name: [] for runner in runners}
    fewest, most = rounds
    best_pace = max(probe() for _ in range(3))
    # A fixed cycle would always run the same contender in the wake of the same other one.
    order = random.Random(0)
    kept = repeated = fell = 0
    began = time.perf_counter()
    while runners and kept < most and (kept < fewest or time.perf_counter() - began < budget_s):
        pace = probe()
        taken: dict[str, float] = {}
        for runner in order.sample(runners, len(runners)):
            if len(samples[runner.contender.name]) < runner.most:
                taken[runner.contender.name] = runner.sample(clock)
        after = probe()
        best_pace = max(best_pace, pace, after)
        if min(pace, after) < _PACE_FELL * best_pace:
            # Never for ever: on a machine that stays slow, the later rounds count and the result says so.
            if repeated < 2 * fewest:
                repeated += 1
                continue
            fell += 1
        kept += 1
        for name, seconds in taken.items():
            samples[name].append(seconds)
    timings = {name: Timing.of(seconds) for name, seconds in samples.items() if seconds}
    return Race(timings, failures, kept, repeated, fell == 0)


class _Runner:
    """A contender, how many calls fill a stretch, and how many samples are worth taking."""

    def __init__(self, contender: Contender, indices: Iterator[int], rest_s: float) -> None:
        self.contender = contender
        self.indices = indices
        self.rest_s = rest_s
        self.calls = 1
        self.most = 1 << 30

    def sample(self, clock: Clock) -> float:
        run = self.contender.run
        order = [next(self.indices) for _ in range(self.calls)]

        def stretch() -> None:
            for index in order:
                run(index)

        if self.rest_s:
            time.sleep(self.rest_s)
        with self.contender.scope():
            if self.calls > 1 or self.rest_s:
                run(next(self.indices))  # wakes the threads that this contender uses
            return clock.time(stretch) / (self.calls * self.contender.calls_per_run)


def _calibrated(
    contenders: Sequence[Contender], clock: Clock, sets: int, stretch_s: float, rest_s: float
) -> tuple[list[_Runner], dict[str, str]]:
    """Warms every contender up and finds out how many calls fill a stretch."""
    runners: list[_Runner] = []
    failures: dict[str, str] = {}
    firsts: list[float] = []
    for contender in contenders:
        runner = _Runner(contender, _cycle(sets), rest_s)
        try:
            with contender.scope():
                began = time.perf_counter()
                # Every set once: the first call with each may pack or compile something.
                for index in range(sets):
                    contender.run(index)
                    if time.perf_counter() - began > 1.0 and index:
                        break
            seconds = min(runner.sample(clock) for _ in range(2))
            runner.calls = max(1, min(10_000, math.ceil(stretch_s / max(seconds, 1e-9))))
            if seconds < stretch_s:
                seconds = runner.sample(clock)
        except Exception as error:
            failures[contender.name] = f"{type(error).__name__}: {first_line(error)}"
            continue
        runners.append(runner)
        firsts.append(seconds)
    for runner, seconds in zip(runners, firsts, strict=True):
        if seconds > _CRAWLS * min(firsts):
            runner.most = 3
    return runners, failures


def _cycle(sets: int) -> Iterator[int]:
    index = 0
    while True:
        yield index
        index = (index + 1) % sets


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the sorted values."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def geomean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"
