"""Threads change nothing but the time: not the bits, not other callers, not the GIL's holder."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.cpu.support import GEMM_TILES, LEVELS, gemm, gemv, matrix, run, spec
from tilewright import _C
from tilewright.kernels.matmul.cpu import BACKEND, CpuConfig
from tilewright.kernels.matmul.problem import MatmulProblem

TILES = {isa: (tile_m, tile_n) for isa, tile_m, tile_n in GEMM_TILES}


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("algorithm", ["gemm", "gemv", "gemv chunks"])
def test_bits_do_not_depend_on_the_thread_count(isa: str, algorithm: str) -> None:
    config = {
        "gemm": gemm(isa, *TILES[isa], block_k=50),
        "gemv": gemv(isa, block=32),
        "gemv chunks": gemv(isa, block=48, block_k=40),
    }[algorithm]
    m = 70 if algorithm == "gemm" else 5
    a, b = matrix(m, 170, torch.float32), matrix(170, 200, torch.float32, "col")
    outs = [run(config, a, b, torch.randn(200).mul_(0), activation="gelu", threads=t) for t in (1, 2, 3, 4)]
    for out in outs[1:]:
        assert isinstance(out, torch.Tensor)
        assert torch.equal(out, outs[0])


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("k", [100, 3000])
def test_the_blocks_of_a_gemm_do_not_change_bits(isa: str, k: int) -> None:
    """Only block_k does, and the first guess takes that from K alone."""
    a, b = matrix(67, k, torch.bfloat16), matrix(k, 130, torch.bfloat16)
    results = []
    for threads in (1, 2, 4):
        problem = MatmulProblem.from_tensors(a, b, threads=threads)
        results += [BACKEND.bind(c, problem)(a, b, None, None) for c in BACKEND.configs(problem, spec(isa))]
    assert len(results) >= 3
    assert all(torch.equal(result, results[0]) for result in results)


def test_sixteen_python_threads_at_once() -> None:
    """Each with sizes of its own: scratch memory must not be shared."""
    level = LEVELS[-1]

    def work(seed: int) -> bool:
        generator = torch.Generator().manual_seed(seed)
        m, n, k = 20 + seed, 40 + 3 * seed, 100 + 31 * seed
        a, b = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator).t()
        problem = MatmulProblem.from_tensors(a, b, threads=2)
        launch = BACKEND.bind(gemm(level, *TILES[level]), problem)
        expected = launch(a, b, None, None)
        torch.testing.assert_close(expected, (a.double() @ b.double()).float(), rtol=1e-4, atol=1e-4)
        return all(torch.equal(launch(a, b, None, None), expected) for _ in range(10))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_one_plan_may_run_in_many_threads() -> None:
    level = LEVELS[-1]
    a, b = torch.randn(64, 300), torch.randn(300, 64)
    launch = BACKEND.bind(gemm(level, *TILES[level]), MatmulProblem.from_tensors(a, b, threads=2))
    expected = launch(a, b, None, None)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: launch(a, b, None, None), range(64)))
    assert all(torch.equal(result, expected) for result in results)


def test_the_gil_is_free_while_a_kernel_runs() -> None:
    # The portable level on one thread takes a tenth of a second or more for this.
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    launch = BACKEND.bind(
        gemm("portable", *TILES["portable"], block_m=1024, block_n=128, block_k=512),
        MatmulProblem.from_tensors(a, b, threads=1),
    )
    span: list[float] = []

    def work() -> None:
        span.append(time.perf_counter())
        launch(a, b, None, None)
        span.append(time.perf_counter())

    worker = threading.Thread(target=work)
    worker.start()
    seen = []
    while worker.is_alive():
        seen.append(time.perf_counter())
        time.sleep(1e-3)
    worker.join()
    margin = (span[1] - span[0]) / 4
    # A holder of the GIL would let nobody look at the clock in the middle half of its run.
    assert any(span[0] + margin < moment < span[1] - margin for moment in seen)


@pytest.mark.skipif(not _C.build_info()["openmp"], reason="built without OpenMP: there is one thread")
def test_the_team_has_the_size_that_was_asked_for() -> None:
    assert [_C.team_size(threads) for threads in (1, 2, 3, 4)] == [1, 2, 3, 4]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.skipif(not _C.build_info()["openmp"], reason="built without OpenMP: there is one thread")
def test_a_launch_starts_no_more_threads_than_it_may() -> None:
    program = """
import os, sys, torch
torch.set_num_threads(1)
from tilewright import _C
from tilewright.kernels.matmul.cpu import BACKEND, CpuConfig
from tilewright.kernels.matmul.problem import MatmulProblem
a = torch.randn(64, 64)
tile = next((r["tile_m"], r["tile_n"]) for r in _C.instances() if r["isa"] == "portable")
config = CpuConfig("gemm", "portable", 8, 8, 64, *tile)
before = len(os.listdir("/proc/self/task"))
counts = []
for threads in (1, 3):
    BACKEND.bind(config, MatmulProblem.from_tensors(a, a, threads=threads))(a, a, None, None)
    counts.append(len(os.listdir("/proc/self/task")) - before)
print(*counts)
gomp = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}
print(len(gomp))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    counts, libraries = result.stdout.split("\n")[:2]
    assert counts == "0 2"
    assert libraries == "1", "torch and _C must share one OpenMP runtime"


@pytest.mark.parametrize("isa", LEVELS)
def test_configs_share_work_evenly(isa: str) -> None:
    """The first guess for a large product keeps every thread busy to at least nine tenths."""
    for threads in (2, 3, 4):
        a, b = torch.empty(512, 768, device="meta"), torch.empty(768, 3072, device="meta")
        problem = MatmulProblem.from_tensors(a, b, threads=threads)
        best = next(iter(BACKEND.configs(problem.__class__(**_cpu(problem)), spec(isa))))
        assert isinstance(best, CpuConfig)
        tasks = -(-512 // best.block_m) * -(-3072 // best.block_n)
        assert tasks / (-(-tasks // threads) * threads) >= 0.9


def _cpu(problem: MatmulProblem) -> dict[str, object]:
    fields = {name: getattr(problem, name) for name in problem.__slots__}
    return {**fields, "device": "cpu", "alignment": 0}
