"""Finds the fastest right config for one problem by measuring.

Every backend's configs, less those that it rejects, are ranked by the cost model; the best few of each
backend and all of the vendor's are bound, proved (see ``proof``) and timed in interleaved rounds. After a few
rounds the slower half drops out, again and again, until the race is decided or the budget spent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tilewright.errors import TuningError
from tilewright.kernels import registry
from tilewright.kernels.frozen import FrozenOperand
from tilewright.kernels.interface import BACKEND_NAMES, DeviceSpec
from tilewright.tuner import cost_model
from tilewright.tuner.proof import Oracle, prove
from tilewright.tuner.rows import Trial
from tilewright.tuner.timing import Anchor, Clock, Entrant, Rounds, make_anchor, rotating_sets

TIE = 1.02
"""Times within this factor of the best are a tie, decided by a fixed order so that like machines agree."""

VENDOR = "aten"
_CRAWL = 20.0
_FIRST_ROUNDS = 5
_LATER_ROUNDS = 8
_FINAL_ROUNDS = 15
_FINALISTS = 3

Inputs = Sequence[Any]
Progress = Callable[[str, float], None]
"""Called with what is going on and the share of the work that is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class TuneResult:
    """What a search found. `trials` holds every config that was tried, with its time or why it has none."""

    operation: str
    problem: Any
    backend: str
    config: Any
    seconds: float
    vendor_seconds: float | None
    trials: tuple[Trial, ...]
    steady: bool
    search_seconds: float

    @property
    def speedup(self) -> float | None:
        """Times faster than the best of the vendor's configs."""
        return self.vendor_seconds / self.seconds if self.vendor_seconds is not None else None


@dataclass(slots=True)
class _Search:
    """The state of one search."""

    problem: Any
    operation: str
    device: DeviceSpec
    make_inputs: Callable[[], Inputs]
    oracle: Callable[[Inputs], Oracle]
    progress: Progress
    deadline: float
    trials: dict[tuple[str, Any], Trial] = field(default_factory=dict)

    def expired(self) -> bool:
        return time.monotonic() > self.deadline

    def drop(self, backend: str, config: Any, reason: str) -> None:
        self.trials[backend, config] = Trial(backend, asdict(config), None, reason)


def search(
    problem: Any,
    operation: str,
    device: DeviceSpec,
    make_inputs: Callable[[], Inputs],
    oracle: Callable[[Inputs], Oracle],
    *,
    budget_s: float = 4.0,
    top_k: int = 8,
    progress: Progress | None = None,
    anchor: Anchor | None = None,
) -> TuneResult:
    """Measures which config runs the problem fastest.

    Args:
        problem: the operation's problem object.
        operation: its name.
        device: where it runs.
        make_inputs: returns fresh random inputs with exactly the problem's metadata.
        oracle: for a set of inputs, the judge of a kernel's outputs.
        budget_s: seconds after which no new step begins; at least one config of each backend is tried.
        top_k: how many configs per backend are tried, by predicted time.
        progress: told how far the search is.
        anchor: the probe that watches the machine's speed; by default one for the device.

    Raises:
        TuningError: no config is right.
    """
    began = time.monotonic()
    state = _Search(
        problem, operation, device, make_inputs, oracle, progress or (lambda *_: None), began + budget_s
    )
    # The vendor's code takes its threads from torch, the problem says how many there are to be.
    threads, wanted = torch.get_num_threads(), getattr(problem, "threads", 0)
    if wanted and wanted != threads:
        torch.set_num_threads(wanted)
    try:
        proved = _proved(state, _shortlist(state, top_k))
        if not proved:
            raise TuningError(_no_survivor(state))
        sets = rotating_sets(make_inputs(), device)
        clock = Clock(device, sets)
        entrants = _entrants(state, proved, sets, clock)
        if not entrants:
            raise TuningError(_no_survivor(state))
        rounds = Rounds(clock, anchor or make_anchor(device), state.expired)
        finalists = _race(state, entrants, rounds)
    finally:
        if wanted and wanted != threads:
            torch.set_num_threads(threads)
    for entrant in entrants:
        key = entrant.backend, entrant.config
        state.trials[key] = Trial(entrant.backend, asdict(entrant.config), entrant.typical)
    winner = pick(finalists)
    vendor = min((e.typical for e in entrants if e.backend == VENDOR), default=None)
    return TuneResult(
        operation=operation,
        problem=problem,
        backend=winner.backend,
        config=winner.config,
        seconds=winner.typical,
        vendor_seconds=vendor,
        trials=tuple(state.trials.values()),
        steady=rounds.unsteady == 0,
        search_seconds=time.monotonic() - began,
    )


def pick(finalists: Sequence[Entrant]) -> Entrant:
    """The fastest; within a tie the first by backend (in the order of ``BACKEND_NAMES``), then by config."""
    best = min(entrant.typical for entrant in finalists)
    tied = [entrant for entrant in finalists if entrant.typical <= best * TIE]
    return min(tied, key=lambda e: (BACKEND_NAMES.index(e.backend), str(e.config)))


_Ranked = tuple[float, str, Any]


def _shortlist(state: _Search, top_k: int) -> list[_Ranked]:
    """(predicted seconds, backend, config), the vendor's first: they set the pace that others must keep."""
    shortlist: list[_Ranked] = []
    for name in registry.backends(state.operation):
        backend = registry.backend(state.operation, name)
        if backend.absent(state.device.kind) is not None:
            continue
        ranked: list[tuple[float, int, Any]] = []
        for position, config in enumerate(dict.fromkeys(backend.configs(state.problem, state.device))):
            rejection = backend.rejects(config, state.problem, state.device)
            if rejection is not None:
                state.drop(name, config, f"rejected: {rejection}")
                continue
            seconds = cost_model.expected_seconds(state.operation, name, config, state.problem, state.device)
            ranked.append((seconds, position, config))
        ranked.sort(key=lambda entry: entry[:2])
        kept = ranked if name == VENDOR else ranked[:top_k]
        shortlist += [(seconds, name, config) for seconds, _, config in kept]
    # The oracle is no contender where anything else runs.
    others = [entry for entry in shortlist if entry[1] != cost_model.UNTUNED_LAST_RESORT]
    return sorted(others or shortlist, key=lambda entry: (entry[1] != VENDOR, entry[0]))


def _proved(state: _Search, shortlist: Sequence[_Ranked]) -> list[_Ranked]:
    """Those that are right. Once the budget is spent, only backends without any proved config go on."""
    proved: list[_Ranked] = []
    judged: list[tuple[Inputs, Oracle]] = []

    def inputs(turn: int) -> Inputs:
        # The reference is slow, so candidates share a set of inputs and what was computed from it.
        while len(judged) <= turn:
            fresh = state.make_inputs()
            judged.append((fresh, state.oracle(fresh)))
        return judged[turn][0]

    for done, entry in enumerate(shortlist):
        _, name, config = entry
        if state.expired() and any(other[1] == name for other in proved):
            state.drop(name, config, "not tried: the budget was spent")
            continue
        state.progress(f"proving {name} {config}", 0.5 * done / len(shortlist))
        backend = registry.backend(state.operation, name)
        turns = iter(range(2))
        complaint = prove(
            lambda backend=backend, config=config: backend.bind(config, state.problem),  # type: ignore[misc]
            lambda turns=turns: inputs(next(turns)),  # type: ignore[misc]
            lambda given: next(oracle for held, oracle in judged if held is given),
            trusted_allocator=name in (VENDOR, cost_model.UNTUNED_LAST_RESORT),
        )
        if complaint is None:
            proved.append(entry)
        else:
            state.drop(name, config, complaint)
    return proved


def _entrants(
    state: _Search, proved: Sequence[_Ranked], sets: Sequence[Inputs], clock: Clock
) -> list[Entrant]:
    """Binds and warms up. What crawls is dropped after one call: it would eat the budget of the rest."""
    entrants: list[Entrant] = []
    best = math.inf
    frozen = any(isinstance(x, FrozenOperand) for x in sets[0])
    for _, name, config in proved:
        backend = registry.backend(state.operation, name)
        try:
            entrant = Entrant(name, config, backend.bind(config, state.problem))
            # With every set where weights are packed, which is no part of what is timed.
            clock.seconds(entrant, len(sets) if frozen else 1)
            first = clock.first_call(entrant)
        except Exception as error:
            state.drop(name, config, f"raised {type(error).__name__}: {str(error)[:300]}")
            continue
        if first > _CRAWL * best:
            state.drop(name, config, f"crawled: its first call took {first:.3g} s, the best {best:.3g} s")
            continue
        best = min(best, first)
        entrants.append(entrant)
    return entrants


def _race(state: _Search, entrants: list[Entrant], rounds: Rounds) -> list[Entrant]:
    """Successive halving; returns those that were still in the race when it ended."""
    alive, stages = list(entrants), max(1, math.ceil(math.log2(max(len(entrants), 2))))
    stage = 0
    while True:
        final = len(alive) <= _FINALISTS
        wanted = _FINAL_ROUNDS if final else _FIRST_ROUNDS if stage == 0 else _LATER_ROUNDS
        for _ in range(wanted):
            rounds.run(alive)
            if state.expired():
                return alive
        if final:
            return alive
        stage += 1
        state.progress(f"timing {len(alive)} configs", min(0.99, 0.5 + 0.5 * stage / stages))
        alive.sort(key=lambda entrant: entrant.typical)
        keep = max(_FINALISTS, math.ceil(len(alive) / 2))
        # The best of the vendor's stays: what the winner is compared with deserves as many samples.
        vendor = next((entrant for entrant in alive[keep:] if entrant.backend == VENDOR), None)
        has_vendor = any(entrant.backend == VENDOR for entrant in alive[:keep])
        alive = alive[:keep] if has_vendor or vendor is None else [*alive[: keep - 1], vendor]


def _no_survivor(state: _Search) -> str:
    reasons = "; ".join(f"{t.backend} {t.config}: {t.reason}" for t in list(state.trials.values())[:5])
    problem = state.problem.describe()
    return f"{state.operation}: no candidate survived for {problem}: {reasons or 'there is none'}"
