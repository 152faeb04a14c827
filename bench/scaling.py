"""How the CPU kernels scale with threads: the best config of each count, against the same machine's own scaling.

    python bench/scaling.py [out.json]

For every shape and every count of threads (1, 2, 4 … up to the machine's cores) the tuner searches the configs of
a frozen weight; the fastest of our own kernels counts, whatever the vendor's does. A machine's peak and bandwidth
do not scale ideally themselves (clocks, shared memory), so both are probed at each count, and two efficiencies
are given:

    seconds                best time with that many threads
    efficiency             T(1) / (threads · T(threads))
    share_of_limit         the time that the probed peak or bandwidth of that many threads allow, over `seconds`
    peak, bandwidth        FLOP/s and B/s, probed at that count
    config                 what was fastest
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tilewright.benchmark.ceiling import measure_ceiling
from tilewright.benchmark.environment import environment
from tilewright.benchmark.matmul.shapes import MatmulShape
from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.kernels.matmul.bound import oracle
from tilewright.kernels.matmul.inputs import random_inputs
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.tuner import device as devices
from tilewright.tuner.search import TuneResult, search

SHAPES = (
    MatmulShape("decode", 1, 4096, 4096),
    MatmulShape("few rows", 16, 4096, 4096),
    MatmulShape("middle", 64, 4096, 4096),
    MatmulShape("prefill", 512, 4096, 4096),
    MatmulShape("vit", 197, 768, 3072),
    MatmulShape("square", 1024, 1024, 1024),
)
DTYPES = (torch.float32, torch.bfloat16)
BUDGET_S = 6.0


def counts(cores: int) -> list[int]:
    found = [1]
    while found[-1] * 2 <= cores:
        found.append(found[-1] * 2)
    return found if found[-1] == cores else [*found, cores]


def problem_of(shape: MatmulShape, dtype: torch.dtype, threads: int) -> MatmulProblem:
    x, weight = torch.empty(shape.m, shape.k, dtype=dtype), torch.empty(shape.n, shape.k, dtype=dtype)
    bias = torch.empty(shape.n, dtype=dtype)
    return MatmulProblem.from_tensors(x, weight.t(), bias, activation="relu", threads=threads, frozen_b=True)


def ours(result: TuneResult) -> tuple[float, str]:
    """(seconds, config) of the fastest of the cpu backend's configs."""
    timed = [t for t in result.trials if t.backend == "cpu" and t.seconds is not None]
    best = min(timed, key=lambda trial: trial.seconds or 0.0)
    return float(best.seconds or 0.0), " ".join(f"{k}={v}" for k, v in best.config.items())


def measure(shape: MatmulShape, dtype: torch.dtype, threads: int) -> dict[str, Any]:
    problem = problem_of(shape, dtype, threads)
    generator = torch.Generator().manual_seed(0)
    torch.set_num_threads(threads)
    spec = devices.current("cpu")
    ceiling = measure_ceiling(torch.device("cpu"), dtype, threads=threads, llc_bytes=spec.llc_bytes)
    result = search(
        problem,
        "matmul",
        spec,
        lambda: random_inputs(problem, torch.device("cpu"), generator),
        lambda inputs: oracle(problem, inputs),
        budget_s=BUDGET_S,
    )
    seconds, config = ours(result)
    # Probed before and after: a disturbance must not make the ceiling too low.
    again = measure_ceiling(torch.device("cpu"), dtype, threads=threads, llc_bytes=spec.llc_bytes)
    ceiling = ceiling.best(again)
    limit = max(problem.flops() / ceiling.flops, problem.bytes() / ceiling.bandwidth)
    return {
        "shape": shape.name,
        "m": shape.m,
        "n": shape.n,
        "k": shape.k,
        "dtype": DTYPE_NAMES[dtype],
        "threads": threads,
        "seconds": seconds,
        "share_of_limit": limit / seconds,
        "peak": ceiling.flops,
        "bandwidth": ceiling.bandwidth,
        "steady": result.steady,
        "config": config,
    }


def main() -> None:
    cores = devices.current("cpu").units
    rows: list[dict[str, Any]] = []
    for dtype in DTYPES:
        for shape in SHAPES:
            alone = 0.0
            for threads in counts(cores):
                row = measure(shape, dtype, threads)
                alone = alone or row["seconds"]
                row["efficiency"] = alone / (threads * row["seconds"])
                rows.append(row)
                print(
                    f"{row['dtype']:5} {shape.name:9} {threads:3} threads  {row['seconds'] * 1e3:8.3f} ms  "
                    f"efficiency {row['efficiency']:.2f}  of limit {row['share_of_limit']:.2f}  {row['config']}",
                    flush=True,
                )
    if len(sys.argv) > 1:
        report = {"environment": environment(torch.device("cpu"), threads=cores), "results": rows}
        Path(sys.argv[1]).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
