"""Overhead of a tilewright call over the torch operators it replaces, the two interleaved in one process.

    python bench/overhead.py [out.json]

pytest-benchmark times one function after the other (``bench/test_overhead.py``); where the machine's speed
changes in between, their difference is that of the machine. Here batches of calls alternate, ours first in one
pair and torch's first in the next. They are so short that most of them see no other process, and figures are
lower quartiles, which the others do not touch. The pairs of one row are spread over the whole run, so that a slow
spell meets all rows alike. Operands are 8×8, so that nothing but the call counts; one thread, so that no kernel
waits for another's. Pin the process to a quiet core (``taskset -c 1``) for the steadiest figures.

The JSON holds ``environment`` (as every result file) and ``results``, a row for each backend, mode and call:

    backend, mode, call       what was timed: strings as in BACKENDS, MODES and `calls`
    tilewright_us, torch_us   µs per call, lower quartiles over the batches
    overhead_us               their difference: the figure to quote
    overhead_median_us        median over the pairs of (ours - torch's); far from the former, the run was disturbed
    pairs                     how many pairs there were
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import tilewright
from tilewright.benchmark.environment import environment
from tilewright.benchmark.timing import quantile

CALLS = 50
"""Calls per batch: a fraction of a millisecond, much less than a scheduler's slice."""
PAIRS = 100
"""Pairs of batches per row and round."""
ROUNDS = 10

BACKENDS = ("aten", "cpu")
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "with gradients": torch.enable_grad,
}
Call = Callable[[], object]


@dataclass
class Row:
    """One line of the result, and what was measured for it so far: pairs of (ours, torch's) seconds."""

    backend: str
    mode: str
    call: str
    ours: Call
    theirs: Call
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def measure(self, pairs: int) -> None:
        with MODES[self.mode](), tilewright.options(backend=self.backend, strict=True):
            for call in (self.ours, self.theirs):
                _seconds(call)  # the first call chooses a kernel, the next ones warm the caches
            for index in range(pairs):
                if index % 2:
                    theirs = _seconds(self.theirs)
                    self.pairs.append((_seconds(self.ours), theirs))
                else:
                    ours = _seconds(self.ours)
                    self.pairs.append((ours, _seconds(self.theirs)))

    def result(self) -> dict[str, Any]:
        ours, theirs = (quantile([pair[side] for pair in self.pairs], 0.25) for side in (0, 1))
        figures = {
            "tilewright_us": ours,
            "torch_us": theirs,
            "overhead_us": ours - theirs,
            "overhead_median_us": quantile([mine - other for mine, other in self.pairs], 0.5),
        }
        rounded = {name: round(seconds * 1e6, 2) for name, seconds in figures.items()}
        return {
            "backend": self.backend,
            "mode": self.mode,
            "call": self.call,
            **rounded,
            "pairs": len(self.pairs),
        }


def _seconds(call: Call) -> float:
    repeats = range(CALLS)
    begin = time.perf_counter()
    for _ in repeats:
        call()
    return (time.perf_counter() - begin) / CALLS


def calls(gradients: bool) -> dict[str, tuple[Call, Call]]:
    """(ours, torch's): a product, a layer with bias and activation, as a function and as a module, and convolutions.

    The module is in eval mode; without gradients its weight is packed, whichever kernel runs. The pointwise
    convolution runs as a product.
    """
    x, w = (torch.randn(8, 8, requires_grad=gradients) for _ in range(2))
    bias = torch.randn(8, requires_grad=gradients)
    layer = tilewright.nn.Linear(8, 8, activation="relu").eval()
    same = torch.nn.Linear(8, 8).eval()
    image, pixels, filters, pointwise = (
        torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_(gradients)
        for shape in ((1, 8, 6, 6), (1, 8, 3, 3), (8, 8, 3, 3), (8, 8, 1, 1))
    )
    return {
        "matmul over torch.mm": (lambda: tilewright.matmul(x, w), lambda: torch.mm(x, w)),
        "linear with relu over relu(F.linear)": (
            lambda: tilewright.linear(x, w, bias, activation="relu"),
            lambda: torch.relu(torch.nn.functional.linear(x, w, bias)),
        ),
        "nn.Linear with relu over relu(F.linear)": (
            lambda: layer(x),
            lambda: torch.relu(torch.nn.functional.linear(x, w, bias)),
        ),
        "nn.Linear with relu over relu(nn.Linear)": (lambda: layer(x), lambda: torch.relu(same(x))),
        "conv2d over F.conv2d": (
            lambda: tilewright.conv2d(image, filters),
            lambda: torch.nn.functional.conv2d(image, filters),
        ),
        "conv2d_relu, padded, over relu(F.conv2d)": (
            lambda: tilewright.conv2d_relu(image, filters, bias, padding=1),
            lambda: torch.relu(torch.nn.functional.conv2d(image, filters, bias, padding=1)),
        ),
        "conv2d_relu, pointwise, over relu(F.conv2d)": (
            lambda: tilewright.conv2d_relu(pixels, pointwise, bias),
            lambda: torch.relu(torch.nn.functional.conv2d(pixels, pointwise, bias)),
        ),
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = [
        Row(backend, mode, name, ours, theirs)
        for backend in BACKENDS
        for mode in MODES
        for name, (ours, theirs) in calls(mode == "with gradients").items()
    ]
    gc.disable()  # as timeit does: a collection would land on whoever is timed at the moment
    for _ in range(ROUNDS):
        for row in rows:
            row.measure(PAIRS)
        gc.collect()
    results = [row.result() for row in rows]
    for result in results:
        print(
            "{backend:5} {mode:15} {call:43} tilewright {tilewright_us:6.2f} µs, torch {torch_us:5.2f} µs, overhead "
            "{overhead_us:6.2f} µs (median {overhead_median_us:.2f})".format(**result)
        )
    report = {"environment": environment(torch.device("cpu"), threads=1), "results": results}
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
