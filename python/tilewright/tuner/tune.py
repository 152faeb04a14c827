"""Tunes recorded problems, one after the other, and keeps the winners in the user's store."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tilewright.errors import ArgumentError, DeviceError, TuningError
from tilewright.kernels.interface import DeviceSpec
from tilewright.tuner import device as devices
from tilewright.tuner import probe
from tilewright.tuner.buckets import bucket, octaves
from tilewright.tuner.log import logger, warn_once
from tilewright.tuner.provenance import provenance
from tilewright.tuner.recorder import Recorded
from tilewright.tuner.rows import Row, encode_trials
from tilewright.tuner.search import Progress, TuneResult, search
from tilewright.tuner.store import Store, user_store

DEFAULT_BUDGET_S = 4.0


@dataclass(slots=True)
class TuneReport:
    """What tuning found. ``print`` it for a table."""

    results: list[TuneResult] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(problem, why it was not tuned)"""

    failures: list[str] = field(default_factory=list)
    interrupted: bool = False
    """Ctrl-C ended the tuning early; what was finished before is kept."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return {
            "results": [
                {
                    "operation": result.operation,
                    "problem": result.problem.describe(),
                    "backend": result.backend,
                    "config": str(result.config),
                    "seconds": result.seconds,
                    "vendor_seconds": result.vendor_seconds,
                    "speedup": result.speedup,
                    "steady": result.steady,
                    "search_seconds": result.search_seconds,
                    "trials": [asdict(trial) for trial in result.trials],
                }
                for result in self.results
            ],
            "skipped": [{"problem": problem, "reason": reason} for problem, reason in self.skipped],
            "failures": list(self.failures),
            "interrupted": self.interrupted,
        }

    def __str__(self) -> str:
        rows = [("problem", "winner", "time", "x torch", "trials")]
        for result in self.results:
            timed = sum(trial.seconds is not None for trial in result.trials)
            speedup = "-" if result.speedup is None else f"{result.speedup:.2f}"
            rows.append(
                (
                    result.problem.describe(),
                    f"{result.backend}: {result.config}",
                    f"{result.seconds * 1e6:.1f} us",
                    speedup + ("" if result.steady else " (unsteady)"),
                    f"{timed} of {len(result.trials)}",
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"not tuned: {problem}: {reason}" for problem, reason in self.skipped]
        lines += [f"failed: {failure}" for failure in self.failures]
        if self.interrupted:
            lines.append("interrupted: what is listed above is kept")
        return "\n".join(lines)


def tune_problems(
    problems: Iterable[Recorded],
    *,
    budget_s: float | None = None,
    progress: bool = True,
    top_k: int = 8,
    store: Store | None = None,
) -> TuneReport:
    """Tunes every distinct bucket among the problems once and stores the winners.

    Args:
        problems: (operation, problem) pairs, as `recording` collects them.
        budget_s: seconds for each bucket, by default 4; proving large problems can take longer.
        progress: a progress bar (with rich installed) or lines on stderr.
        top_k: configs tried per backend.
        store: where winners go; by default the user's store.

    Returns:
        The report. Ctrl-C ends the tuning, keeps what is finished, and sets ``interrupted``.

    Raises:
        ArgumentError: `budget_s` or `top_k` is not positive.
        TuningError: for some problem no candidate was right. The others have been tuned and stored.
    """
    budget = DEFAULT_BUDGET_S if budget_s is None else budget_s
    if not budget > 0 or top_k < 1:
        raise ArgumentError(f"tune: budget_s is {budget_s} and top_k is {top_k}; expected positive numbers")
    store = store or user_store()
    report = TuneReport()
    distinct = _distinct(problems)
    with _progress(len(distinct), progress) as advance:
        try:
            for number, (operation, problem) in enumerate(distinct):
                _tune_one(operation, problem, budget, top_k, store, report, _step(advance, number, problem))
            _tune_unsteady_again(budget, top_k, store, report)
        except KeyboardInterrupt:
            report.interrupted = True
            logger.warning("tuning was interrupted; %d finished problems are kept", len(report.results))
    if report.failures:
        raise TuningError("; ".join(report.failures))
    return report


def _tune_unsteady_again(budget_s: float, top_k: int, store: Store, report: TuneReport) -> None:
    """Searches once more, after all others, what was measured while the machine slowed down.

    Other work on the machine (or on its host) makes threads wait for each other, which strikes some kernels
    more than others: winners of such a search were seen to take twice the time of the vendor's code. What is
    steady the second time, or at least faster, replaces the first result.
    """
    for position, first in enumerate(report.results):
        if first.steady:
            continue
        again = TuneReport()
        _tune_one(first.operation, first.problem, 2 * budget_s, top_k, store, again, _silent, first)
        if again.results:
            report.results[position] = again.results[0]


def _silent(what: str, share: float) -> None:
    """Progress that nobody watches."""


def device_of(problem: Any) -> DeviceSpec:
    """The device of this process that a problem belongs to."""
    return (
        devices.current("cuda", torch.cuda.current_device())
        if problem.device == "cuda"
        else devices.current()
    )


def _distinct(problems: Iterable[Recorded]) -> list[Recorded]:
    """One problem per bucket: the one nearest to it."""
    chosen: dict[tuple[Any, ...], tuple[float, str, Any]] = {}
    for operation, problem in problems:
        sizes = (problem.m, problem.batch_count)
        here = bucket(sizes[0]), bucket(sizes[1])
        key = (operation, problem.device, problem.family(), *here)
        distance = octaves(sizes, here)
        if key not in chosen or distance < chosen[key][0]:
            chosen[key] = distance, operation, problem
    return [(operation, problem) for _, operation, problem in chosen.values()]


def _tune_one(
    operation: str,
    problem: Any,
    budget_s: float,
    top_k: int,
    store: Store,
    report: TuneReport,
    progress: Progress,
    earlier: TuneResult | None = None,
) -> None:
    """Searches and stores; the result goes to the report. An `earlier` result stays if it is the better one."""
    if problem.flops() == 0:
        report.skipped.append((problem.describe(), "it is empty"))
        return
    try:
        folder = f"tilewright.kernels.{operation}"
        random_inputs = importlib.import_module(f"{folder}.inputs").random_inputs
        oracle = importlib.import_module(f"{folder}.bound").oracle
        spec = _measured(device_of(problem))
        where = torch.device(problem.device)
        generator = torch.Generator(device=where).manual_seed(torch.seed() & 0x7FFF_FFFF)
        result = search(
            problem,
            operation,
            spec,
            lambda: random_inputs(problem, where, generator),
            lambda inputs: oracle(problem, inputs),
            budget_s=budget_s,
            top_k=top_k,
            progress=progress,
        )
    except ArgumentError as error:
        report.skipped.append((problem.describe(), str(error)))
        return
    except TuningError as error:
        report.failures.append(str(error))
        return
    if earlier is not None and not result.steady and result.seconds >= earlier.seconds:
        return
    report.results.append(result)
    store.put(make_result_row(result, spec))


def make_result_row(result: TuneResult, spec: DeviceSpec) -> Row:
    """The row that keeps a result in a store."""
    problem = result.problem
    state = provenance(result.operation, spec)
    state |= {
        "m": str(problem.m),
        "batch": str(problem.batch_count),
        "steady": "yes" if result.steady else "no",
    }
    return Row(
        device=devices.device_key(spec),
        operation=result.operation,
        family=problem.family(),
        m=bucket(problem.m),
        batch=bucket(problem.batch_count),
        backend=result.backend,
        config=asdict(result.config),
        seconds=result.seconds,
        trials_json=encode_trials(result.trials),
        provenance=state,
    )


def _measured(spec: DeviceSpec) -> DeviceSpec:
    """The device with measured rates; a probe that cannot run leaves the estimates."""
    if spec.measured:
        return spec
    try:
        return probe.measure(spec, torch.cuda.current_device() if spec.kind == "cuda" else 0)
    except (DeviceError, RuntimeError) as error:
        warn_once(f"tuning with estimated peaks: {error}")
        return spec


Advance = Callable[[str, float], None]
"""Shows a line of text and how many problems (a fraction, too) are done."""


def _step(advance: Advance, number: int, problem: Any) -> Progress:
    title = problem.describe()
    return lambda what, share: advance(f"{title}: {what}", number + share)


@contextmanager
def _progress(total: int, wanted: bool) -> Iterator[Advance]:
    if not wanted:
        yield lambda text, done: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        last = ""

        def line(text: str, done: float) -> None:
            nonlocal last
            title = text.rpartition(": ")[0]
            if title != last:
                last = title
                print(f"tuning {int(done) + 1} of {total}: {title}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (
        TextColumn("tuning"),
        BarColumn(20),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=max(total, 1))
        yield lambda text, done: bar.update(task, description=text, completed=done)
        bar.update(task, description="done", completed=max(total, 1))
