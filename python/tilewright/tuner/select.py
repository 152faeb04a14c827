"""Chooses a backend and config for a problem, without measuring anything.

The order: what the caller asked for > the user's store > the table shipped for the device > the cost model.
A stored row that was measured under other versions of the software is stale: it comes after fresh ones of
either source, still before the model's guess. Whatever a row says, ``rejects()`` is asked again for the exact
problem, and where it says no, the next fastest of the row's trials is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tilewright.errors import ArgumentError, DeviceError, FormatError
from tilewright.kernels import registry
from tilewright.kernels.interface import DeviceSpec, absence
from tilewright.tuner import cost_model, shipped
from tilewright.tuner.buckets import MOST_OCTAVES, bucket, octaves
from tilewright.tuner.device import device_key
from tilewright.tuner.log import warn_once
from tilewright.tuner.provenance import changes, provenance
from tilewright.tuner.rows import Row, rebuild
from tilewright.tuner.store import Bucket, Store, user_store


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs a problem, and where that was decided.

    `source` is ``explicit``, ``store``, ``shipped`` or ``cost model``; `detail` says more for people.
    """

    backend: str
    config: Any
    source: str
    detail: str
    expected_seconds: float

    def __str__(self) -> str:
        return f"{self.backend}: {self.config} [{self.source}{', ' if self.detail else ''}{self.detail}]"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a problem. Exactly one of: it is chosen, or `reason` says why not.

    `config` is None for a backend that is absent.
    """

    backend: str
    config: Any
    predicted_seconds: float | None
    measured_seconds: float | None
    chosen: bool
    reason: str


def select(
    problem: Any,
    operation: str,
    device: DeviceSpec,
    *,
    backend: str | None = None,
    config: Any = None,
    strict: bool = False,
    store: Store | None = None,
) -> Choice:
    """The choice for exactly this problem on this device.

    Args:
        problem: the operation's problem object.
        operation: its name, a folder of ``kernels/``.
        device: where it runs.
        backend: run on this backend if it can.
        config: with `backend`, run exactly this config if it can.
        strict: raise where the backend or config asked for cannot run; otherwise warn once and choose.
        store: the store to look in; by default the user's.

    Raises:
        ArgumentError: `backend` is no backend of the operation, `config` is not one of its configs, or
            (strict) it rejects the problem.
        DeviceError: (strict) the backend is absent; or nothing at all runs the problem.
    """
    if backend is not None:
        try:
            return _explicit(problem, operation, device, backend, config, store)
        except _Refused as refusal:
            if strict:
                raise refusal.error from None
            warn_once(f"{refusal.error}; falling back to another choice")
    elif config is not None:
        raise ArgumentError(
            f"{operation}: config is {config}, but no backend; name the backend it belongs to"
        )
    for choice in _stored(problem, operation, device, store):
        return choice
    return _predicted(problem, operation, device)


def candidates(
    problem: Any,
    operation: str,
    device: DeviceSpec,
    *,
    choice: Choice | None = None,
    store: Store | None = None,
) -> list[Candidate]:
    """Every way to run the problem: the chosen one first, then the others by time, then those that cannot.

    Each that was not taken says why: absent with the remedy, rejected, measured or predicted to be slower.
    """
    if choice is None:
        choice = select(problem, operation, device, store=store)
    times = _measured(problem, operation, device, store)
    listed: list[Candidate] = []
    names = registry.backends(operation)
    for name in names if choice.backend in names else (choice.backend, *names):
        found = registry.backend(operation, name)
        missing = absence(found, device)
        if missing is not None:
            listed.append(Candidate(name, None, None, None, False, str(missing)))
            continue
        configs = list(dict.fromkeys(found.configs(problem, device)))
        if choice.backend == name and choice.config not in configs:
            configs.append(choice.config)
        for config in configs:
            chosen = (name, config) == (choice.backend, choice.config)
            rejection = found.rejects(config, problem, device)
            if rejection is not None:
                listed.append(Candidate(name, config, None, None, chosen, rejection))
                continue
            predicted = cost_model.expected_seconds(operation, name, config, problem, device)
            measured, failure = times.get((name, str(config)), (None, ""))
            reason = "" if chosen else failure or _why_not(name, predicted, measured, choice, times)
            listed.append(Candidate(name, config, predicted, measured, chosen, reason))
    return sorted(listed, key=_listing_order)


def _listing_order(candidate: Candidate) -> tuple[bool, bool, bool, float]:
    return (
        not candidate.chosen,
        candidate.predicted_seconds is None,
        candidate.measured_seconds is None,
        candidate.measured_seconds or candidate.predicted_seconds or 0.0,
    )


class _Refused(Exception):
    """What the caller asked for cannot run here."""

    def __init__(self, error: ArgumentError | DeviceError) -> None:
        super().__init__(str(error))
        self.error = error


def _explicit(
    problem: Any, operation: str, device: DeviceSpec, name: str, config: Any, store: Store | None
) -> Choice:
    found = registry.backend(operation, name)
    missing = absence(found, device)
    if missing is not None:
        raise _Refused(DeviceError(f"{operation}: backend {name} is not available: {missing}"))
    if config is not None:
        if not isinstance(config, found.config_type):
            raise ArgumentError(
                f"{operation}: config is a {type(config).__name__}; backend {name} takes a "
                f"{found.config_type.__name__}"
            )
        rejection = found.rejects(config, problem, device)
        if rejection is not None:
            raise _Refused(ArgumentError(f"{operation}: {name} cannot run {config}: {rejection}"))
        seconds = cost_model.expected_seconds(operation, name, config, problem, device)
        return Choice(name, config, "explicit", "backend and config", seconds)
    for choice in _stored(problem, operation, device, store, only=name):
        detail = f"backend; config from the {choice.source}, {choice.detail}"
        return Choice(name, choice.config, "explicit", detail, choice.expected_seconds)
    ranked, rejection = _ranked(problem, operation, device, name)
    if not ranked:
        raise _Refused(
            ArgumentError(f"{operation}: no config of {name} runs {problem.describe()}: {rejection}")
        )
    seconds, config = ranked[0]
    return Choice(name, config, "explicit", "backend; config from the cost model", seconds)


@dataclass(frozen=True, slots=True)
class _Match:
    """A row that may serve a problem; the best comes first in sorted order."""

    row: Row
    source: str
    changed: tuple[str, ...]
    distance: float

    def order(self) -> tuple[bool, bool, float, int, int]:
        stale = bool(self.changed)
        return stale, self.source != "store", self.distance, self.row.m, self.row.batch

    def detail(self) -> str:
        words = [f"tuned {self.row.provenance.get('time', 'at an unknown time')}"]
        if self.distance > 0:
            words.append(f"at the bucket M={self.row.m}, batch={self.row.batch}")
        if self.changed:
            words.append(f"stale: {', '.join(self.changed)} changed since")
        return ", ".join(words)


def _matches(problem: Any, operation: str, device: DeviceSpec, store: Store | None) -> list[_Match]:
    key, family = device_key(device), problem.family()
    here: Bucket = (bucket(problem.m), bucket(problem.batch_count))
    sources: list[tuple[str, Mapping[Bucket, Row]]] = [
        ("store", (store or user_store()).rows(key, operation, family)),
        ("shipped", shipped.table(key).get((operation, family), {})),
    ]
    present = provenance(operation, device) if any(rows for _, rows in sources) else {}
    found = [
        _Match(row, source, changes(row.provenance, present), octaves(here, there))
        for source, rows in sources
        for there, row in rows.items()
        if octaves(here, there) <= MOST_OCTAVES
    ]
    return sorted(found, key=_Match.order)


def _stored(
    problem: Any, operation: str, device: DeviceSpec, store: Store | None, only: str | None = None
) -> Iterator[Choice]:
    """Stored choices that run this very problem, best first."""
    for match in _matches(problem, operation, device, store):
        row = match.row
        if only is None or row.backend == only:
            config = _resolve(problem, operation, device, row.backend, row.config)
            if config is not None:
                yield Choice(row.backend, config, match.source, match.detail(), row.seconds)
        for seconds, name, fields in _runners_up(row):
            if only is None or name == only:
                config = _resolve(problem, operation, device, name, fields)
                if config is not None:
                    detail = (
                        match.detail() if only else f"{match.detail()}, whose winner cannot run this problem"
                    )
                    yield Choice(name, config, match.source, detail, seconds)


def _runners_up(row: Row) -> list[tuple[float, str, Any]]:
    """The timed trials of a row but the winner, fastest first."""
    try:
        trials = row.trials()
    except FormatError as error:
        warn_once(f"tuning store: ignoring the malformed trials of a row ({error})", key="trials")
        return []
    timed = [(t.seconds, t.backend, t.config) for t in trials if t.seconds is not None]
    return sorted(
        (x for x in timed if (x[1], x[2]) != (row.backend, row.config)), key=lambda x: (x[0], x[1], str(x[2]))
    )


def _resolve(problem: Any, operation: str, device: DeviceSpec, name: str, fields: Any) -> Any | None:
    """The config object of stored fields if it runs the problem here, else None."""
    if name not in registry.backends(operation):
        return None
    found = registry.backend(operation, name)
    if absence(found, device) is not None:
        return None
    try:
        config = rebuild(found, fields)
    except FormatError as error:
        warn_once(f"tuning store: ignoring a choice ({error})", key="rebuild")
        return None
    return config if found.rejects(config, problem, device) is None else None


def _ranked(
    problem: Any, operation: str, device: DeviceSpec, name: str
) -> tuple[list[tuple[float, Any]], str]:
    """A present backend's runnable configs by predicted time, and one rejection if there is none."""
    found = registry.backend(operation, name)
    ranked, rejection = [], "it lists no config for it"
    for position, config in enumerate(dict.fromkeys(found.configs(problem, device))):
        reason = found.rejects(config, problem, device)
        if reason is not None:
            rejection = reason
            continue
        seconds = cost_model.expected_seconds(operation, name, config, problem, device)
        ranked.append((seconds, position, config))
    ranked.sort(key=lambda entry: entry[:2])
    return [(seconds, config) for seconds, _, config in ranked], rejection


def _predicted(problem: Any, operation: str, device: DeviceSpec) -> Choice:
    """The model's choice: ours only where it is predicted to beat the vendor's by the margin."""
    best: dict[str, tuple[float, Any]] = {}
    refusals = []
    for name in registry.backends(operation):
        missing = absence(registry.backend(operation, name), device)
        if missing is not None:
            refusals.append(f"{name}: {missing}")
            continue
        ranked, rejection = _ranked(problem, operation, device, name)
        if ranked:
            best[name] = ranked[0]
        else:
            refusals.append(f"{name}: {rejection}")
    if not best:
        raise DeviceError(f"{operation}: nothing runs {problem.describe()}: {'; '.join(refusals)}")
    ours = [name for name in best if name not in ("aten", cost_model.UNTUNED_LAST_RESORT)]
    fastest = min(ours, key=lambda name: best[name][0], default=None)
    if fastest is not None and "aten" in best:
        ratio = best["aten"][0] / best[fastest][0]
        if ratio >= cost_model.MARGIN:
            detail = f"predicted {ratio:.2f}x the vendor's speed"
        else:
            fastest = "aten"
            detail = (
                f"ours predicted at {ratio:.2f}x the vendor's speed, below the margin of {cost_model.MARGIN}x"
            )
    elif fastest is not None:
        detail = "the vendor's code does not run it"
    elif "aten" in best:
        fastest, detail = "aten", "no kernel of ours runs it"
    else:
        fastest, detail = cost_model.UNTUNED_LAST_RESORT, "nothing else runs it"
    seconds, config = best[fastest]
    return Choice(fastest, config, "cost model", detail, seconds)


def _measured(
    problem: Any, operation: str, device: DeviceSpec, store: Store | None
) -> dict[tuple[str, str], tuple[float | None, str]]:
    """(backend, printed config) to its time, or to why it has none, in the best matching row."""
    for match in _matches(problem, operation, device, store):
        times: dict[tuple[str, str], tuple[float | None, str]] = {}
        try:
            trials = match.row.trials()
        except FormatError:
            continue
        for trial in trials:
            if trial.backend in registry.backends(operation):
                try:
                    config = rebuild(registry.backend(operation, trial.backend), trial.config)
                except FormatError:
                    continue
                times[trial.backend, str(config)] = trial.seconds, trial.reason
        return times
    return {}


def _why_not(
    name: str,
    predicted: float,
    measured: float | None,
    choice: Choice,
    times: Mapping[tuple[str, str], tuple[float | None, str]],
) -> str:
    if choice.source == "explicit":
        return "another was asked for"
    if measured is not None:
        ratio = measured / choice.expected_seconds
        return f"measured {ratio:.2f}x the chosen one's time" + (" (a tie)" if ratio <= 1.02 else "")
    if name == cost_model.UNTUNED_LAST_RESORT:
        return "the oracle, taken only if nothing else runs"
    if times:
        return "not tried: the cost model ranked it behind those that were"
    ratio = predicted / choice.expected_seconds
    if ratio < 1 and choice.backend == "aten":
        return f"predicted {1 / ratio:.2f}x faster, below the margin of {cost_model.MARGIN}x over the vendor"
    return f"predicted {ratio:.2f}x the chosen one's time"
