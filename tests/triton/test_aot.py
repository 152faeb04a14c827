"""Rung 4: configs compiled ahead of time, with no GPU. They fit, do not spill, and use the matrix units."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from tilewright import aot
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.triton import BACKEND
from tilewright.kernels.matmul.triton.config import TritonConfig
from tilewright.kernels.matmul.triton.limits import shared_bytes
from tilewright.kernels.matmul.triton.proof import linear_problem
from tilewright.tuner.device import builtin

pytest.importorskip("triton", reason="Triton is not installed")

ARCHS = {"sm_80": builtin("a100"), "sm_90": builtin("h100"), "sm_100": builtin("b200")}
WORKERS = min(2, os.cpu_count() or 1)
BARRIERS = 64

LARGE = TritonConfig("tiled", 128, 256, 64, 8, 1, 8, 3)
MEDIUM = TritonConfig("tiled", 128, 128, 32, 8, 1, 8, 4)
SMALL = TritonConfig("tiled", 64, 128, 32, 8, 1, 4, 4)
SKINNY = TritonConfig("tiled", 16, 64, 128, 1, 4, 4, 4)
IEEE = TritonConfig("tiled", 64, 64, 32, 8, 1, 8, 3)


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


def plain(a: torch.Tensor, b: torch.Tensor) -> MatmulProblem:
    return MatmulProblem.from_tensors(a, b, activation="silu")


# A linear_problem has every stage of the epilogue at once: bias, residual, gelu, the kept pre-activation.
CASES: dict[str, tuple[TritonConfig, MatmulProblem, tuple[str, ...]]] = {
    "large": (LARGE, linear_problem(4096, 4096, 4096, torch.bfloat16), tuple(ARCHS)),
    "skinny": (SKINNY, linear_problem(1, 4096, 4096, torch.bfloat16), tuple(ARCHS)),
    "ieee": (IEEE, linear_problem(512, 512, 512, torch.float32), tuple(ARCHS)),
    "tf32": (MEDIUM, linear_problem(512, 512, 512, torch.float32, "tf32"), tuple(ARCHS)),
    "vectors": (SMALL, linear_problem(1001, 1000, 1000, torch.float16, b_row=True), ("sm_80", "sm_90")),
    "singles": (SMALL, linear_problem(1001, 1001, 1000, torch.float16, b_row=True), ("sm_80", "sm_90")),
    "a transposed": (SMALL, plain(empty(512, 640).t(), empty(512, 768)), ("sm_90",)),
    "no unit stride": (SMALL, plain(empty(640, 1024)[:, ::2], empty(512, 768)), ("sm_90",)),
    "batch": (SMALL, plain(empty(4, 640, 512), empty(4, 512, 768)), ("sm_90",)),
    "wide offsets": (SMALL, plain(empty(70_000, 40_000), empty(40_000, 512)), ("sm_90",)),
}
# The best guesses, as `configs` lists them, on the oldest and newest architecture.
LISTED = [
    (config, problem, arch)
    for problem in (
        linear_problem(4096, 4096, 4096, torch.float16),
        linear_problem(1, 4096, 4096, torch.float16),
        linear_problem(32, 11008, 4096, torch.float16),
    )
    for arch in ("sm_80", "sm_100")
    for config in list(BACKEND.configs(problem, ARCHS[arch]))[:2]
]


@pytest.fixture(scope="module")
def results() -> list[aot.Compiled]:
    """All of the above, compiled once."""
    jobs = [
        aot.Job("matmul", config, problem, arch)
        for config, problem, archs in CASES.values()
        for arch in archs
    ]
    jobs += [aot.Job("matmul", config, problem, arch) for config, problem, arch in LISTED]
    for job in jobs:
        assert BACKEND.rejects(job.config, job.problem, ARCHS[job.arch]) is None
    return [result for results in aot.compile_all(jobs, WORKERS) for result in results]


@pytest.fixture(scope="module")
def compiled(results: list[aot.Compiled]) -> dict[tuple[str, str, str], aot.Compiled]:
    """The results of `CASES` by (case, arch, kernel)."""
    by_job = {(r.config, r.problem, r.arch, r.kernel): r for r in results}
    return {
        (case, arch, kernel): by_job[str(config), problem.describe(), arch, kernel]
        for case, (config, problem, archs) in CASES.items()
        for arch in archs
        for kernel in ("tiled_matmul", *(("sum_parts",) if config.split_k > 1 else ()))
    }


def test_every_kernel_compiles_fits_and_does_not_spill(results: list[aot.Compiled]) -> None:
    assert len(results) >= sum(len(archs) for _, _, archs in CASES.values()) + len(LISTED)
    for result in results:
        what = f"{result.kernel} {result.config} {result.arch} {result.problem}"
        assert result.error is None, f"{what}: {result.error}"
        assert result.unknown is None, f"{what}: {result.unknown}"
        assert result.seconds > 0
        assert result.cubin_bytes > 0
        assert result.registers is not None
        assert 16 <= result.registers <= 255
        assert not result.spills, f"{what}: {result.stack} bytes spilled"
        assert not result.exceeds_declared, f"{what}: {result.shared} > {result.declared_shared}"


def test_matrix_units(compiled: dict[tuple[str, str, str], aot.Compiled]) -> None:
    def used(case: str, kernel: str = "tiled_matmul") -> list[tuple[str, ...]]:
        return [compiled[case, arch, kernel].matrix_instructions for arch in ARCHS]

    assert used("large") == [("mma m16n8k16",), ("wgmma m64n256k16",), ("tcgen05.mma",)]
    assert used("tf32") == [("mma m16n8k8",), ("wgmma m64n128k8",), ("tcgen05.mma",)]
    assert used("skinny") == [("mma m16n8k16",)] * 3
    assert used("skinny", "sum_parts") == [()] * 3
    assert used("ieee") == [()] * 3


@pytest.mark.parametrize("case", ["large", "skinny", "ieee", "tf32", "vectors"])
def test_shared_memory_is_what_rejects_says(
    case: str, compiled: dict[tuple[str, str, str], aot.Compiled]
) -> None:
    """Exactly, but for the allowance for barriers."""
    config, problem, archs = CASES[case]
    stage = (config.block_m + config.block_n) * config.block_k * problem.dtype.itemsize
    for arch in archs:
        result = compiled[case, arch, "tiled_matmul"]
        assert result.declared_shared == shared_bytes(config, problem, ARCHS[arch].capability)
        assert result.declared_shared - BARRIERS <= result.shared <= result.declared_shared
        asynchronous = arch != "sm_80" and case in ("large", "tf32", "vectors")
        assert result.shared // stage == config.num_stages - (0 if asynchronous else 1)


def test_rows_that_are_no_vectors_lose_the_pipeline_only(
    compiled: dict[tuple[str, str, str], aot.Compiled],
) -> None:
    """N = 1000 halves are whole 16-byte vectors although 1000 is no multiple of 16; N = 1001 are not."""
    for arch in ("sm_80", "sm_90"):
        vectors, singles = (compiled[case, arch, "tiled_matmul"] for case in ("vectors", "singles"))
        assert singles.shared < vectors.shared


def test_a_compiler_that_hangs_or_fails_costs_one_result() -> None:
    problem = linear_problem(256, 256, 256, torch.float16)
    ((slow,),) = aot.compile_all([aot.Job("matmul", LARGE, problem, "sm_90")], timeout=0.05)
    assert slow.error == "took longer than 0.05 s"

    # A block that is no power of two: `rejects` would have said so, the compiler says it too.
    broken = aot.Job("matmul", replace(MEDIUM, block_m=48), problem, "sm_90")
    results = list(aot.compile_all([broken, aot.Job("matmul", MEDIUM, problem, "sm_90")], 1))
    assert [result.ok for (result,) in results] == [False, True]


def test_interpreting_in_the_caller_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    job = aot.Job("matmul", MEDIUM, linear_problem(256, 256, 256, torch.float16), "sm_80")
    ((result,),) = aot.compile_all([job])
    assert result.error is None
    assert os.environ["TRITON_INTERPRET"] == "1"
