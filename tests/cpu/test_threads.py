"""Threads change nothing but the time: not the bits, not other callers, not the GIL's holder."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.cpu.support import GEMM_TILES, LEVELS, PACKS, gemm, gemv, matrix, run, spec
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


@pytest.mark.parametrize(("isa", "tile_m", "tile_n"), GEMM_TILES)
@pytest.mark.parametrize("pack_b", PACKS)
def test_parts_packing_and_groups_do_not_change_bits(isa: str, tile_m: int, tile_n: int, pack_b: str) -> None:
    """Only the ISA, the arithmetic, block_k and the tile do."""
    a, b = matrix(67, 300, torch.bfloat16), matrix(300, 130, torch.bfloat16, "col")
    plain = run(gemm(isa, tile_m, tile_n, block_m=100, parts_n=1, block_k=128), a, b)
    assert isinstance(plain, torch.Tensor)
    for parts_m, parts_n, block_n, prefetch in ((1, 2, 32, 0), (2, 1, 64, 4096), (3, 5, 500, 64)):
        config = gemm(
            isa,
            tile_m,
            tile_n,
            block_m=100,
            block_n=block_n,
            block_k=128,
            pack_b=pack_b,
            parts_m=parts_m,
            parts_n=parts_n,
            prefetch=prefetch,
        )
        for threads in (1, 2, 4):
            out = run(config, a, b, threads=threads)
            assert isinstance(out, torch.Tensor)
            assert torch.equal(out, plain), str(config)


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
config = CpuConfig("gemm", "portable", 8, 8, 64, *tile, parts_n=3)
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
        here = dataclasses.replace(spec(isa), units=4)
        best = next(iter(BACKEND.configs(problem.__class__(**_cpu(problem)), here)))
        assert isinstance(best, CpuConfig)
        strips = -(-512 // best.tile_m)
        rows = -(-strips // best.parts_m) * best.parts_m / strips
        panels = 3072 // best.tile_n
        columns = -(-panels // best.parts_n) * best.parts_n / panels
        assert rows * columns * threads / (best.parts_m * best.parts_n) <= 1 / 0.9


def _cpu(problem: MatmulProblem) -> dict[str, object]:
    fields = {name: getattr(problem, name) for name in problem.__slots__}
    return {**fields, "device": "cpu", "alignment": 0}
