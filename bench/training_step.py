"""A step of training the example CNN: through tilewright's layers, and eager torch's in both memory formats.

    python bench/training_step.py [--tune] [--batch 64] [--json out.json]

Forward pass, loss, backward pass and SGD with momentum on the digits (``examples/train_cnn.py``), interleaved in one
process: each round takes one stretch of steps of everybody, in a new order. All train from the same parameters on
the same images. The JSON holds ``environment`` and ``results``, a row for each implementation:

    contender, batch     who, and how many images a step takes
    p50, p20, p80        seconds per step
    x_eager              how many times faster than eager torch in its better format
    loss                 after the last step: all of them learn
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tilewright
from tilewright.benchmark.environment import environment
from tilewright.benchmark.timing import Contender, WallClock, race
from tilewright.examples.train_cnn import EXAMPLE, optimize
from tilewright.examples.training import seeded, training_step
from tilewright.tuner import device as devices
from tilewright.tuner.timing import make_anchor

EAGER, EAGER_LAST = "torch eager", "torch eager channels_last"
OURS, OURS_LAST = "tilewright", "tilewright channels_last"


class Stepper:
    """A network with its optimizer; each call is a step."""

    def __init__(self, make: Callable[[], nn.Module], x: Tensor, y: Tensor, last: bool) -> None:
        memory_format = torch.channels_last if last else torch.contiguous_format
        self.model = seeded(make).train().to(memory_format=memory_format)  # type: ignore[call-overload]
        self.optimizer = optimize(self.model.parameters())
        self.x, self.y = x.contiguous(memory_format=memory_format), y
        self.loss = float("nan")

    def __call__(self, index: int = 0) -> None:
        self.loss = float(training_step(self.model, self.optimizer, self.x, self.y))


def measure(batch: int, budget_s: float, tune_budget_s: float | None) -> list[dict[str, Any]]:
    """A row for each implementation."""
    data = EXAMPLE.data()
    x, y = data.train_x[:batch], data.train_y[:batch]
    kinds = {
        EAGER: (EXAMPLE.theirs, False),
        EAGER_LAST: (EXAMPLE.theirs, True),
        OURS: (EXAMPLE.ours, False),
        OURS_LAST: (EXAMPLE.ours, True),
    }
    if tune_budget_s is not None:
        for make, last in (kinds[OURS], kinds[OURS_LAST]):
            tilewright.tune(Stepper(make, x, y, last), budget_s=tune_budget_s)
    steppers = {name: Stepper(make, x, y, last) for name, (make, last) in kinds.items()}
    outcome = race(
        [Contender(name, stepper) for name, stepper in steppers.items()],
        clock=WallClock(),
        probe=make_anchor(devices.current()),
        budget_s=budget_s,
        rounds=(10, 1000),
        stretch_s=0.05,
    )
    timings = outcome.timings
    eager = min(timings[name].p50 for name in (EAGER, EAGER_LAST))
    return [
        {
            "contender": name,
            "batch": batch,
            "p50": timing.p50,
            "p20": timing.p20,
            "p80": timing.p80,
            "x_eager": eager / timing.p50,
            "loss": steppers[name].loss,
            "rounds": outcome.rounds,
            "steady": outcome.steady,
        }
        for name, timing in timings.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Times a step of training the example CNN.")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--budget-s", type=float, default=30.0, help="seconds of rounds")
    parser.add_argument("--tune", action="store_true", help="tune the problems of a step first")
    parser.add_argument("--tune-budget-s", type=float, default=4.0, help="seconds per problem")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = measure(given.batch, given.budget_s, given.tune_budget_s if given.tune else None)
    for row in rows:
        print(
            f"{row['contender']:26} {row['p50'] * 1e3:8.3f} ms  ({row['p20'] * 1e3:.3f}-{row['p80'] * 1e3:.3f})  "
            f"{row['x_eager']:.2f} x eager, loss {row['loss']:.2e}"
        )
    if given.json is not None:
        report = {"environment": environment(torch.device("cpu")), "results": rows}
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
