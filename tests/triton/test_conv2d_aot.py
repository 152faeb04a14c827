"""conv2d's configs compiled ahead of time, with no GPU. They fit, do not spill, and use the matrix units."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from tilewright import aot
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import BACKEND
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.proof import Layer
from tilewright.tuner.device import builtin

pytest.importorskip("triton", reason="Triton is not installed")

ARCHS = {"sm_80": builtin("a100"), "sm_90": builtin("h100"), "sm_100": builtin("b200")}
ALL = tuple(ARCHS)
WORKERS = min(2, os.cpu_count() or 1)

GEMM = TritonConfig("implicit_gemm", 128, 128, 64, 8, 1, 8, 3)
MEDIUM = TritonConfig("implicit_gemm", 64, 64, 32, 8, 1, 4, 4)
BOXES = TritonConfig("descriptor", 128, 128, 64, 8, 1, 8, 3)
WIDE = Layer(32, 256, 256, 28)
STEM = Layer(32, 3, 64, 224, kernel=7, stride=2)
HALF = torch.float16

# Forward problems have every stage of the epilogue at once: bias, residual, gelu, the kept pre-activation.
CASES: dict[str, tuple[TritonConfig, Conv2dProblem, tuple[str, ...]]] = {
    "implicit": (GEMM, WIDE.problem("forward", torch.bfloat16), ALL),
    "split": (replace(MEDIUM, split_k=4), WIDE.problem("forward", HALF), ("sm_80",)),
    "tf32": (
        replace(GEMM, block_k=32, num_stages=4),
        WIDE.problem("forward", torch.float32, "tf32"),
        ("sm_80", "sm_90"),
    ),
    "ieee": (replace(MEDIUM, block_k=16), WIDE.problem("forward", torch.float32), ("sm_90",)),
    "vectors of 8": (MEDIUM, Layer(32, 24, 40, 28).problem("forward", HALF), ("sm_80", "sm_90")),
    "odd channels": (MEDIUM, Layer(8, 33, 35, 29).problem("forward", HALF), ("sm_80",)),
    "pixels": (MEDIUM, replace(WIDE, channels_last=False).problem("forward", HALF), ("sm_90",)),
    "one warp": (
        TritonConfig("implicit_gemm", 16, 16, 32, 1, 1, 1, 4),
        WIDE.problem("forward", HALF),
        ("sm_90",),
    ),
    "sixteen warps": (
        *(TritonConfig("implicit_gemm", 128, 128, 32, 8, 1, 16, 4), WIDE.problem("forward", HALF)),
        ("sm_80",),
    ),
    "stem": (
        *(TritonConfig("few_channels", 128, 64, 32, 8, 1, 8, 2), STEM.problem("forward", HALF)),
        ("sm_80", "sm_90"),
    ),
    "boxes": (BOXES, WIDE.problem("forward", HALF), ("sm_90", "sm_100")),
    "strided boxes": (BOXES, replace(WIDE, stride=2).problem("forward", HALF), ("sm_90",)),
    "boxes of dy": (BOXES, WIDE.problem("input_gradient", torch.bfloat16), ("sm_90", "sm_100")),
    "input gradient": (
        *(replace(GEMM, algorithm="input_gradient"), replace(WIDE, stride=2).problem("input_gradient", HALF)),
        ALL,
    ),
    "weight gradient": (
        *(replace(GEMM, algorithm="weight_gradient", split_k=8), WIDE.problem("weight_gradient", HALF)),
        ALL,
    ),
    "weight gradient of a stem": (
        *(replace(MEDIUM, algorithm="few_channels", split_k=64), STEM.problem("weight_gradient", HALF)),
        ("sm_90",),
    ),
    "depthwise": (
        TritonConfig("depthwise", 64, 64, 1, 1, 1, 4, 1),
        Layer(32, 128, 128, 28, groups=128).problem("forward", HALF),
        ("sm_80", "sm_90"),
    ),
    "depthwise weight gradient": (
        TritonConfig("depthwise", 16, 64, 1, 1, 8, 4, 1),
        Layer(32, 128, 128, 28, groups=128).problem("weight_gradient", HALF),
        ("sm_90",),
    ),
    "small groups": (
        TritonConfig("depthwise", 32, 64, 1, 1, 1, 4, 1),
        Layer(32, 128, 128, 28, groups=32).problem("forward", HALF),
        ("sm_90",),
    ),
}


@pytest.fixture(scope="module")
def compiled() -> dict[tuple[str, str], list[aot.Compiled]]:
    """Results by (case, arch): the product's kernel and, where a sum is split, what finishes it."""
    names, jobs = [], []
    for name, (config, problem, archs) in CASES.items():
        for arch in archs:
            assert BACKEND.rejects(config, problem, ARCHS[arch]) is None, name
            names.append((name, arch))
            jobs.append(aot.Job("conv2d", config, problem, arch))
    keys = {
        (str(job.config), job.problem.describe(), job.arch): name
        for name, job in zip(names, jobs, strict=True)
    }
    assert len(keys) == len(jobs)
    return {
        keys[results[0].config, results[0].problem, results[0].arch]: results
        for results in aot.compile_all(jobs, WORKERS)
    }


def test_every_kernel_compiles_fits_and_does_not_spill(
    compiled: dict[tuple[str, str], list[aot.Compiled]],
) -> None:
    assert len(compiled) == sum(len(archs) for _, _, archs in CASES.values())
    for (name, arch), results in compiled.items():
        assert len(results) == (2 if CASES[name][0].split_k > 1 else 1)
        for result in results:
            what = f"{name}: {result.kernel} {result.config} {arch}"
            assert result.error is None, f"{what}: {result.error}"
            assert result.unknown is None, f"{what}: {result.unknown}"
            assert result.registers is not None
            assert 16 <= result.registers <= 255
            assert not result.spills, f"{what}: {result.stack} bytes spilled"
            assert not result.exceeds_declared, f"{what}: {result.shared} > {result.declared_shared}"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("implicit", ("mma m16n8k16", "wgmma m64n128k16", "tcgen05.mma")),
        ("tf32", ("mma m16n8k8", "wgmma m64n128k8")),
        ("ieee", (None,)),
        ("vectors of 8", ("mma m16n8k16", "wgmma m64n64k16")),
        ("boxes", ("wgmma m64n128k16", "tcgen05.mma")),
        ("strided boxes", ("wgmma m64n128k16",)),
        ("boxes of dy", ("wgmma m64n128k16", "tcgen05.mma")),
        ("input gradient", ("mma m16n8k16", "wgmma m64n128k16", "tcgen05.mma")),
        ("weight gradient", ("mma m16n8k16", "wgmma m64n128k16", "tcgen05.mma")),
        ("stem", ("mma m16n8k16", "wgmma m64n64k16")),
        ("depthwise", (None, None)),
    ],
)
def test_matrix_units(
    case: str, expected: tuple[str | None, ...], compiled: dict[tuple[str, str], list[aot.Compiled]]
) -> None:
    used = [compiled[case, arch][0].matrix_instructions for arch in CASES[case][2]]
    assert used == [() if name is None else (name,) for name in expected]


@pytest.mark.parametrize(
    "case", ["implicit", "tf32", "vectors of 8", "boxes", "input gradient", "weight gradient"]
)
def test_shared_memory_holds_a_pipeline(
    case: str, compiled: dict[tuple[str, str], list[aot.Compiled]]
) -> None:
    """As many buffers as `rejects` counts with: every load is a vector, and under way while others are multiplied."""
    config, problem, archs = CASES[case]
    stage = (config.block_m + config.block_n) * config.block_k * problem.dtype.itemsize
    for arch in archs:
        result = compiled[case, arch][0]
        assert result.shared // stage == config.num_stages - (1 if arch == "sm_80" else 0)


@pytest.mark.parametrize("case", ["boxes", "strided boxes", "boxes of dy"])
def test_boxes_are_not_passed_through_registers(
    case: str, compiled: dict[tuple[str, str], list[aot.Compiled]]
) -> None:
    """Then sm_90 would keep a buffer fewer of the image."""
    config, problem, archs = CASES[case]
    buffers = (config.block_m + config.block_n) * config.block_k * problem.dtype.itemsize * config.num_stages
    for arch in archs:
        assert compiled[case, arch][0].shared >= buffers
