"""Tunes and times the published lists until the time is spent; ``gpu_check.py`` runs this in a process of its own.

Writes ``results.json`` after every shape, ``tuned.json`` (a table that can be shipped) and ``speedup.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gpu_report

# What is tuned here goes into tuned.json, not into the store of whoever runs this.
os.environ["TILEWRIGHT_CACHE_DIR"] = tempfile.mkdtemp(prefix="tilewright-gpu-check-")

import torch

from tilewright import dispatch, tuner
from tilewright.benchmark.contenders import COMPILED
from tilewright.benchmark.results import OURS, Report
from tilewright.benchmark.run import Settings, run
from tilewright.benchmark.shapes import LISTS, Shape, named
from tilewright.benchmark.timing import first_line
from tilewright.ops import PROBLEMS
from tilewright.tuner import device as devices
from tilewright.tuner import shipped
from tilewright.tuner.store import user_store

DTYPES = {
    "bf16": (torch.bfloat16, "ieee", 0.45),
    "tf32": (torch.float32, "tf32", 0.2),
    "f16": (torch.float16, "ieee", 0.15),
    "f32": (torch.float32, "ieee", 0.1),
}
"""dtype, precision, and the share of the time; what is left goes to torch.compile with max-autotune."""

REHEARSAL = (Shape("rehearsal", 33, 65, 64),)
COMPILED_SHAPES = (Shape("llama ffn up", 512, 11008, 4096), Shape("bert ffn up", 128, 3072, 768))
_MOST_FAILURES = 4


class Spent(Exception):
    """The time of a stage is over."""


@dataclass
class Measuring:
    """The state of the whole run, and where it is kept."""

    out: Path
    device: str
    tune_s: float
    deadline: float
    results: dict[str, Any]

    def write(self) -> None:
        path = self.out / "results.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        gpu_report.write_atomically(path, json.dumps({**kept, **self.results}, indent=1) + "\n")

    def stage(
        self, name: str, shapes: tuple[Shape, ...], settings: Settings, until: float, tune: bool
    ) -> Report | None:
        """One dtype over a list, each shape tuned first; ends when its time is over or too much fails."""
        grown: list[Report] = []
        failures: dict[str, str] = self.results["failures"]
        mine: list[str] = []

        def before(shape: Shape, done: int) -> None:
            if time.monotonic() > until or len(mine) >= _MOST_FAILURES:
                raise Spent
            print(f"{name}: {shape} ({done} done)", flush=True)
            if tune:
                found = tuner.tune_problems([_problem(shape, settings)], budget_s=self.tune_s, progress=False)
                self.results["tuning"].append({"dtype": name, "shape": str(shape), **found.to_dict()})
                dispatch.forget()

        def after(report: Report) -> None:
            grown[:] = [report]
            self.results["runs"][name] = report.to_dict()
            self.results["wrong"] += [f"{name}: {line}" for line in _newly_wrong(report)]
            self.write()

        def failed(shape: Shape, error: Exception) -> None:
            if isinstance(error, Spent):
                raise error
            mine.append(str(shape))
            failures[f"{name} {shape}"] = f"{type(error).__name__}: {first_line(error)}"
            print(f"    failed: {failures[f'{name} {shape}']}", flush=True)
            self.write()

        try:
            run(shapes, settings, before=before, after=after, failed=failed)
        except Spent:
            pass
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {first_line(error)}"
            self.write()
        return grown[0] if grown else None


def _newly_wrong(report: Report) -> list[str]:
    last = report.shapes[-1]
    return [
        f"{entry.contender} on {last.shape}: error {entry.error:.3g}"
        for entry in last.entries
        if not entry.right and entry.contender.startswith(OURS)
    ]


def _problem(shape: Shape, settings: Settings) -> tuple[str, Any]:
    """As the timed call will meet it: allocated the same way, hence aligned the same way."""
    device = torch.device(settings.device)
    x, weight, bias = (
        torch.empty(sizes, dtype=settings.dtype, device=device)
        for sizes in ((shape.m, shape.k), (shape.n, shape.k), (shape.n,))
    )
    return PROBLEMS["linear"](x, weight, bias, activation=settings.activation)


def interleaved(lists: str) -> tuple[Shape, ...]:
    """The shapes of the lists in turns, so that a run cut short has seen some of each."""
    names = list(LISTS) if lists == "all" else lists.split(",")
    # Many rows and few rows in turns, too: every third shape first.
    columns = []
    for name in names:
        shapes = named(name)
        columns.append([shape for start in range(3) for shape in shapes[start::3]])
    return tuple(shape for row in zip_longest(*columns) for shape in row if shape is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget-s", type=float, required=True)
    parser.add_argument("--tune-s", type=float, default=2.0)
    parser.add_argument("--dtypes", default="")
    parser.add_argument("--shapes", default="all")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    arguments = parser.parse_args()
    began = time.monotonic()
    on_cpu = arguments.device == "cpu"
    wanted = (
        arguments.dtypes.split(",") if arguments.dtypes else (["bf16", "f32"] if on_cpu else list(DTYPES))
    )
    shapes = REHEARSAL if on_cpu else interleaved(arguments.shapes)
    results: dict[str, Any] = {"runs": {}, "tuning": [], "failures": {}, "wrong": []}
    state = Measuring(arguments.out, arguments.device, arguments.tune_s, began + arguments.budget_s, results)
    first: Report | None = None
    until = began
    for name in wanted:
        dtype, precision, share = DTYPES[name]
        # Time that one stage leaves goes to the next.
        until += share * arguments.budget_s
        settings = Settings(
            dtype=dtype,
            device=arguments.device,
            activation="relu",
            precision=precision,
            compile_budget_s=0.0,
            budget_s=0.05 if on_cpu else 0.3,
            rounds=(3, 5) if on_cpu else (5, 50),
        )
        report = state.stage(name, shapes, settings, until, tune=True)
        first = first or report
    left = state.deadline - time.monotonic()
    if not on_cpu and left > 40:
        settings = Settings(
            dtype=torch.bfloat16, device="cuda", activation="relu", compile_budget_s=left - 20, budget_s=0.3
        )
        compiled = state.stage(
            f"bf16 with {COMPILED}", COMPILED_SHAPES, settings, state.deadline - 20, tune=False
        )
        if compiled is None:
            results["failures"].setdefault(COMPILED, "no shape was finished")
    _keep_tuned(arguments)
    _draw(first, arguments.out, results)
    state.write()
    return 0 if first is not None else 1


def _keep_tuned(arguments: argparse.Namespace) -> None:
    spec = devices.current("cpu" if arguments.device == "cpu" else "cuda")
    shipped.write(arguments.out / "tuned.json", devices.device_key(spec), user_store().every_row())


def _draw(report: Report | None, out: Path, results: dict[str, Any]) -> None:
    if report is None:
        return
    try:
        from tilewright.benchmark.plot import plot_report

        plot_report(report, out / "speedup.png")
    except Exception as error:
        results["failures"]["plot"] = f"{type(error).__name__}: {first_line(error)}"


if __name__ == "__main__":
    sys.exit(main())
