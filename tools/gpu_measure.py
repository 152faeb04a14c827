"""Tunes and times the published lists until the time is spent; ``gpu_check.py`` runs this in a process of its own.

Writes ``results.json`` after every shape, ``tuned.json`` (a table that can be shipped) and a picture per operation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
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
from tilewright.benchmark.conv2d.shapes import Conv2dShape
from tilewright.benchmark.matmul.shapes import MatmulShape
from tilewright.benchmark.results import OURS, Report
from tilewright.benchmark.run import run
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import Shape
from tilewright.benchmark.suite import operation_suite, suite
from tilewright.benchmark.timing import first_line
from tilewright.tuner import device as devices
from tilewright.tuner import shipped
from tilewright.tuner.store import user_store

DTYPES = {
    "bf16": (torch.bfloat16, "ieee", 0.45),
    "tf32": (torch.float32, "tf32", 0.2),
    "f16": (torch.float16, "ieee", 0.12),
    "f32": (torch.float32, "ieee", 0.08),
}
"""dtype, precision, and the share of the time; what is left goes to torch.compile with max-autotune."""

LAYOUTS = {"matmul": "linear", "conv2d": "channels_last"}

REHEARSAL: dict[str, tuple[Shape, ...]] = {
    "matmul": (MatmulShape("rehearsal", 33, 65, 64),),
    "conv2d": (Conv2dShape("rehearsal", 2, 16, 9, 9, 24, (3, 3), padding=(1, 1)),),
}
COMPILED_SHAPES: dict[str, tuple[Shape, ...]] = {
    "matmul": (MatmulShape("llama ffn up", 512, 11008, 4096), MatmulShape("bert ffn up", 128, 3072, 768)),
    "conv2d": (
        Conv2dShape("resnet50 conv3 3x3", 32, 128, 28, 28, 128, (3, 3), padding=(1, 1)),
        Conv2dShape("resnet50 conv1", 32, 3, 224, 224, 64, (7, 7), (2, 2), (3, 3)),
    ),
}
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
        """One operation and dtype over a list, each shape tuned first; ends when its time is over or too much fails."""
        grown: list[Report] = []
        failures: dict[str, str] = self.results["failures"]
        mine: list[str] = []

        def before(shape: Shape, done: int) -> None:
            if time.monotonic() > until or len(mine) >= _MOST_FAILURES:
                raise Spent
            print(f"{name}: {shape} ({done} done)", flush=True)
            if tune:
                # As the timed call will meet it: allocated the same way, hence aligned the same way.
                problem = operation_suite(settings.operation).problem(shape, settings)
                found = tuner.tune_problems([problem], budget_s=self.tune_s, progress=False)
                self.results["tuning"].append({"run": name, "shape": str(shape), **found.to_dict()})
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


def interleaved(operation: str, wanted: str) -> tuple[Shape, ...]:
    """The shapes of the lists in turns, so that a run cut short has seen some of each."""
    lists = suite(operation).lists
    # Many rows and few rows in turns, too: every third shape first.
    columns = [
        [shape for start in range(3) for shape in shapes[start::3]]
        for name, shapes in lists.items()
        if wanted == "all" or name in wanted.split(",")
    ]
    return tuple(shape for row in zip_longest(*columns) for shape in row if shape is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget-s", type=float, required=True)
    parser.add_argument("--tune-s", type=float, default=2.0)
    parser.add_argument("--operations", default="matmul,conv2d")
    parser.add_argument("--dtypes", default="")
    parser.add_argument("--shapes", default="all")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    arguments = parser.parse_args()
    began = time.monotonic()
    on_cpu = arguments.device == "cpu"
    dtypes = (
        arguments.dtypes.split(",") if arguments.dtypes else (["bf16", "f32"] if on_cpu else list(DTYPES))
    )
    operations = arguments.operations.split(",")
    results: dict[str, Any] = {"runs": {}, "tuning": [], "failures": {}, "wrong": []}
    state = Measuring(arguments.out, arguments.device, arguments.tune_s, began + arguments.budget_s, results)
    first: dict[str, Report] = {}
    until = began
    for name in dtypes:
        dtype, precision, share = DTYPES[name]
        for operation in operations:
            # Time that one stage leaves goes to the next.
            until += share * arguments.budget_s / len(operations)
            settings = Settings(
                operation=operation,
                dtype=dtype,
                device=arguments.device,
                layout=LAYOUTS[operation],
                activation="relu",
                precision=precision,
                compile_budget_s=0.0,
                budget_s=0.05 if on_cpu else 0.3,
                rounds=(3, 5) if on_cpu else (5, 50),
            )
            shapes = REHEARSAL[operation] if on_cpu else interleaved(operation, arguments.shapes)
            report = state.stage(f"{operation} {name}", shapes, settings, until, tune=True)
            if report is not None:
                first.setdefault(operation, report)
    if not on_cpu:
        _compile(state, operations)
    _keep_tuned(arguments)
    for operation, report in first.items():
        _draw(report, arguments.out / f"{operation}.png", results)
    state.write()
    return 0 if len(first) == len(operations) else 1


def _compile(state: Measuring, operations: Sequence[str]) -> None:
    """torch.compile with max-autotune on a few shapes, each operation in its share of what time is left."""
    for done, operation in enumerate(operations):
        left = (state.deadline - time.monotonic() - 10) / (len(operations) - done)
        if left < 30:
            return
        settings = Settings(
            operation=operation,
            dtype=torch.bfloat16,
            device="cuda",
            layout=LAYOUTS[operation],
            activation="relu",
            compile_budget_s=left - 10,
            budget_s=0.3,
        )
        name, until = f"{operation} bf16 with {COMPILED}", time.monotonic() + left - 10
        if state.stage(name, COMPILED_SHAPES[operation], settings, until, tune=False) is None:
            state.results["failures"].setdefault(name, "no shape was finished")


def _keep_tuned(arguments: argparse.Namespace) -> None:
    spec = devices.current("cpu" if arguments.device == "cpu" else "cuda")
    shipped.write(arguments.out / "tuned.json", devices.device_key(spec), user_store().every_row())


def _draw(report: Report, path: Path, results: dict[str, Any]) -> None:
    try:
        from tilewright.benchmark.plot import plot_report

        plot_report(report, path)
    except Exception as error:
        results["failures"][path.stem] = f"not drawn: {type(error).__name__}: {first_line(error)}"


if __name__ == "__main__":
    sys.exit(main())
