"""What a benchmark found, summed up and stored: JSON with everything, CSV with a line per measurement."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tilewright.benchmark.shapes import Shape, families
from tilewright.benchmark.timing import geomean, quantile

FORMAT = 2

OURS = "tilewright"
"""The contender that runs what tilewright chooses."""

PACKED = f"{OURS} packed"
"""The same through a layer of `tilewright.nn`, whose weight is packed: what "oneDNN prepacked" compares with."""

PACKED_TF32 = f"{PACKED}, tf32"
"""The same where ``options(precision="tf32")`` admits faster arithmetic."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender on one shape. Times are seconds per call."""

    contender: str
    p50: float
    p20: float
    p80: float
    samples: int
    flops_per_second: float
    error: float  # the largest |y - y64|
    right: bool  # within the bound, elementwise
    detail: str = ""  # which kernel ran
    flops_tell: bool = True  # False: it may compute less than `flops` counts, and so beat the peak


@dataclass(frozen=True, slots=True)
class ShapeResult:
    """All contenders on one shape."""

    shape: Shape
    problem: str
    flops: int
    required_flops: int  # no kernel can do with less: `flops` counts terms that meet padding, too
    bytes: int
    entries: tuple[Entry, ...]
    absent: dict[str, str]  # contender to the reason why it was not timed
    choice: str
    rounds: int
    repeated: int
    steady: bool

    def entry(self, contender: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.contender == contender), None)

    def best(self, contenders: Iterable[str]) -> Entry | None:
        """The fastest of these that computed the right thing."""
        names = set(contenders)
        right = [entry for entry in self.entries if entry.contender in names and entry.right]
        return min(right, key=lambda entry: entry.p50, default=None)


@dataclass(frozen=True, slots=True)
class Summary:
    """Ratios of times, theirs over ours, over a list: above one, we are faster."""

    against: str
    shapes: int
    geomean: float
    p10: float
    worst: float
    worst_shape: str


@dataclass(slots=True)
class Report:
    """A whole run.

    `eager` is what torch users write today, `baseline` the name of the fastest of it; `torch` is all that torch
    offers (of models, ONNX Runtime too), `rivals` the name of the fastest of that, `summed` what of ours is summed
    up. `ceiling` holds the best peak and bandwidth that any probe of the run saw.
    """

    environment: dict[str, Any]
    settings: dict[str, Any]
    ceiling: dict[str, Any]
    baseline: str
    eager: tuple[str, ...]
    torch: tuple[str, ...]
    summed: tuple[str, ...] = (OURS, PACKED)
    shapes: list[ShapeResult] = field(default_factory=list)
    rivals: str = "best of torch"

    def floor(self, result: ShapeResult) -> float:
        """The roofline: no kernel that computes every term and must read and write main memory is faster."""
        flops, bandwidth = float(self.ceiling["flops"]), float(self.ceiling["bandwidth"])
        return max(result.required_flops / flops, result.bytes / bandwidth)

    def roofline(self, result: ShapeResult, entry: Entry) -> float:
        """The share of what the ceiling allows that an entry reaches."""
        return self.floor(result) / entry.p50

    def of_peak(self, entry: Entry) -> float:
        """The share of the peak that was probed which an entry reaches."""
        return entry.flops_per_second / float(self.ceiling["flops"])

    def disturbed(self) -> bool:
        """Whether some result beat the peak that was probed: then the probes were held up by other work."""
        peak = 1.02 * float(self.ceiling["flops"])
        return any(
            entry.flops_tell and result.required_flops / entry.p50 > peak
            for result in self.shapes
            for entry in result.entries
        )

    def ratio(self, result: ShapeResult, entry: Entry, *, best: bool) -> float | None:
        """How many times faster `entry` is than the baseline or than the best of torch."""
        other = result.best(self.torch if best else self.eager)
        return other.p50 / entry.p50 if other is not None else None

    def summaries(self, contender: str = OURS, family: str | None = None) -> list[Summary]:
        """Over all shapes, or over those of one list."""
        found = []
        shapes = set(families(result.shape for result in self.shapes).get(family, ())) if family else None
        for against, best in ((self.baseline, False), (self.rivals, True)):
            ratios = []
            for result in self.shapes:
                if shapes is not None and result.shape not in shapes:
                    continue
                entry = result.entry(contender)
                ratio = self.ratio(result, entry, best=best) if entry is not None else None
                if ratio is not None:
                    ratios.append((ratio, str(result.shape)))
            if ratios:
                values = [ratio for ratio, _ in ratios]
                worst, where = min(ratios)
                found.append(
                    Summary(against, len(ratios), geomean(values), quantile(values, 0.1), worst, where)
                )
        return found

    def families(self) -> tuple[str, ...]:
        """The lists that the shapes come from."""
        return tuple(families(result.shape for result in self.shapes))

    def choices(self) -> dict[str, int]:
        """How often each backend was chosen."""
        counts: dict[str, int] = {}
        for result in self.shapes:
            backend = result.choice.partition(":")[0]
            counts[backend] = counts.get(backend, 0) + 1
        return counts

    def wrong(self) -> list[str]:
        """Every measurement of ours whose result was outside the bound."""
        return [
            f"{entry.contender} on {result.shape}: error {entry.error:.3g}"
            for result in self.shapes
            for entry in result.entries
            if not entry.right and entry.contender.startswith(OURS)
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "environment": self.environment,
            "settings": self.settings,
            "ceiling": self.ceiling | {"disturbed": self.disturbed()},
            "baseline": self.baseline,
            "eager": list(self.eager),
            "torch": list(self.torch),
            "rivals": self.rivals,
            "summaries": self._plain_summaries(None),
            "lists": {family: self._plain_summaries(family) for family in self.families()},
            "choices": self.choices(),
            "shapes": [self._plain(result) for result in self.shapes],
        }

    def _plain_summaries(self, family: str | None) -> dict[str, list[dict[str, Any]]]:
        """Of each contender of ours, over all shapes or those of one list."""
        found = {name: self.summaries(name, family) for name in self.summed}
        return {name: [asdict(summary) for summary in each] for name, each in found.items() if each}

    def _plain(self, result: ShapeResult) -> dict[str, Any]:
        plain = asdict(result) | {"label": str(result.shape), "floor": self.floor(result)}
        for written, entry in zip(plain["entries"], result.entries, strict=True):
            written["roofline"] = self.roofline(result, entry)
            written["of_peak"] = self.of_peak(entry)
        return plain

    def write_json(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def write_csv(self, path: Path) -> None:
        if not self.shapes:
            return
        sizes = [field.name for field in fields(self.shapes[0].shape)]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("shape", *sizes[1:], *MEASURED_COLUMNS))
            for result in self.shapes:
                described = [_cell(getattr(result.shape, name)) for name in sizes]
                writer.writerows((*described, *line) for line in self._lines(result))

    def _lines(self, result: ShapeResult) -> Iterable[Sequence[Any]]:
        for entry in result.entries:
            yield (
                entry.contender,
                entry.detail,
                entry.p50,
                entry.p20,
                entry.p80,
                entry.samples,
                entry.flops_per_second,
                self.roofline(result, entry),
                _cell(self.ratio(result, entry, best=False)),
                _cell(self.ratio(result, entry, best=True)),
                entry.error,
                int(entry.right),
            )


MEASURED_COLUMNS = (
    "contender",
    "runs",
    "p50_s",
    "p20_s",
    "p80_s",
    "samples",
    "flops_per_s",
    "roofline",
    "x_baseline",
    "x_best_of_torch",
    "max_error",
    "right",
)
"""The columns of the CSV after those of the shape's sizes."""


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "" if value is None else value
