"""``tilewright.explain``: which kernel a call would run, where that choice came from, and why not another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilewright import dispatch, ops, settings, tuner
from tilewright.errors import ArgumentError
from tilewright.kernels.interface import DeviceSpec


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer of `explain`. ``print`` it, or read its fields."""

    operation: str
    problem: Any
    device: DeviceSpec
    choice: tuner.Choice
    candidates: list[tuner.Candidate]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return {
            "operation": self.operation,
            "problem": self.problem.describe(),
            "flops": self.problem.flops(),
            "bytes": self.problem.bytes(),
            "device": dataclasses.asdict(self.device),
            "choice": _plain(self.choice),
            "candidates": [_plain(candidate) for candidate in self.candidates],
        }

    def __str__(self) -> str:
        choice, device = self.choice, self.device
        rates = "measured" if device.measured else "data-sheet" if device.hypothetical else "estimated"
        lines = [
            self.problem.describe(),
            f"on {device.name} ({device.arch}, {device.units} {'cores' if device.kind == 'cpu' else 'SMs'}, "
            f"{rates} rates)",
            f"runs {choice.backend}: {choice.config}",
            f"because {choice.source}" + (f": {choice.detail}" if choice.detail else ""),
            f"expected {format_seconds(choice.expected_seconds)}; the floor is "
            f"{format_seconds(floor_seconds(self.problem, device))}",
            "",
        ]
        rows = [("backend", "config", "expected", "measured", "why not")]
        rows += [
            (
                candidate.backend,
                "-" if candidate.config is None else str(candidate.config),
                format_seconds(candidate.predicted_seconds),
                format_seconds(candidate.measured_seconds),
                "chosen" if candidate.chosen else candidate.reason,
            )
            for candidate in self.candidates
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
            lines.append("  ".join([*cells, row[4]]).rstrip())
        return "\n".join(lines)


def explain(operation: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Says which kernel a call would run, without running it: nothing is launched and nothing is measured.

    Args:
        operation: a public function (``tilewright.linear``), its name (``"linear"``), or a layer of `tilewright.nn`.
        *args, **kwargs: what the call would be given.

    Returns:
        The problem, the choice under the options in force and its source (explicit options, the user's store,
        the shipped table, or the cost model), and every other candidate with the reason why it was not taken.

    Raises:
        ArgumentError: no such operation.
        The operation's own errors: arguments that it does not take.
    """
    posed = getattr(operation, "problem", None)
    if posed is not None:  # a layer of tilewright.nn
        folder, problem = posed(*args, **kwargs)
        return explain_problem(folder, problem, dispatch.device_of(problem))
    name = operation if isinstance(operation, str) else getattr(operation, "__name__", repr(operation))
    if name not in ops.PROBLEMS:
        raise ArgumentError(f"explain: operation is {name!r}; expected one of {', '.join(ops.PROBLEMS)}")
    folder, problem = ops.PROBLEMS[name](*args, **kwargs)
    return explain_problem(folder, problem, dispatch.device_of(problem))


def explain_problem(operation: str, problem: Any, device: DeviceSpec) -> Explanation:
    """The same for a problem object, on any described device (``tilewright.tuner.device.builtin("h100")``)."""
    options = settings.current()
    choice = tuner.select(
        problem, operation, device, backend=options.backend, config=options.config, strict=options.strict
    )
    listed = tuner.candidates(problem, operation, device, choice=choice)
    return Explanation(operation, problem, device, choice, listed)


def floor_seconds(problem: Any, device: DeviceSpec) -> float:
    """No kernel is faster than this: operations over peak or bytes over bandwidth, whichever is longer."""
    peak = device.peak(problem.dtype, problem.precision)
    if device.kind == "cpu" and 0 < problem.threads < device.units:
        peak *= problem.threads / device.units
    return max(float(problem.flops()) / peak, float(problem.bytes()) / device.bandwidth)


def format_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _plain(value: Any) -> dict[str, Any]:
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if fields.get("config") is not None:
        fields["config"] = {"text": str(fields["config"]), **dataclasses.asdict(fields["config"])}
    return fields
