"""Overhead of a tilewright call over the torch operators it replaces, the two interleaved in one process.

    python bench/overhead.py out.json

pytest-benchmark times one function after the other (``bench/test_overhead.py``); where the machine's speed
changes in between, their difference is that of the machine. Here blocks of calls alternate, and the figure is
the median of the differences of neighbouring blocks. One thread, so that no kernel waits for another's.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tilewright
from tilewright.benchmark.environment import environment

CALLS, BLOCKS = 2000, 31
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "with gradients": torch.enable_grad,
}


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begin) / CALLS


def overhead(ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> dict[str, float]:
    """Medians in microseconds: ours, torch's, and of the differences."""
    for _ in range(200):
        ours()
        theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(BLOCKS)]
    return {
        "tilewright_us": round(statistics.median(mine for mine, _ in pairs) * 1e6, 2),
        "torch_us": round(statistics.median(other for _, other in pairs) * 1e6, 2),
        "overhead_us": round(statistics.median(mine - other for mine, other in pairs) * 1e6, 2),
    }


def figures(gradients: bool) -> dict[str, dict[str, float]]:
    """A product, and a layer with bias and activation, of 8×8 matrices."""
    x, w = (torch.randn(8, 8, requires_grad=gradients) for _ in range(2))
    bias = torch.randn(8, requires_grad=gradients)
    return {
        "matmul over torch.mm": overhead(lambda: tilewright.matmul(x, w), lambda: torch.mm(x, w)),
        "linear with relu over relu(F.linear)": overhead(
            lambda: tilewright.linear(x, w, bias, activation="relu"),
            lambda: torch.relu(torch.nn.functional.linear(x, w, bias)),
        ),
    }


def main() -> None:
    torch.set_num_threads(1)
    results = []
    for backend in ("aten", "cpu"):
        for mode, scope in MODES.items():
            with scope(), tilewright.options(backend=backend, strict=True):
                for call, measured in figures(mode == "with gradients").items():
                    results.append({"backend": backend, "mode": mode, "call": call, **measured})
                    print(f"{backend:5} {mode:15} {call:37} {measured}")
    report = {"environment": environment(torch.device("cpu"), threads=1), "results": results}
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
