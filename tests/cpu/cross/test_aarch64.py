"""The portable level as ARM builds compile it, cross-compiled and run under user-mode emulation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"

INCLUDES = ("-I", "csrc", "-I", "kernels")
ANY = ("-std=c++20", "-O2", "-Wall", "-Wextra", "-Wno-psabi", "-fopenmp", *INCLUDES)
# As tilewright_isa() in CMakeLists.txt compiles a level.
LEVEL = (
    *ANY,
    "-O3",
    "-ffp-contract=off",
    "-fno-exceptions",
    "-fno-rtti",
    "-DTILEWRIGHT_ISA_NAMESPACE=portable",
)
LEVEL_SOURCES = (
    "csrc/cpu/isa.cpp",
    "csrc/cpu/probe_kernels.cpp",
    "kernels/conv2d/cpu/direct.cpp",
    "kernels/conv2d/cpu/grouped.cpp",
    "kernels/conv2d/cpu/planes.cpp",
    "kernels/conv2d/cpu/weight_gradient.cpp",
    "kernels/conv2d/cpu/winograd.cpp",
    "kernels/matmul/cpu/gemm.cpp",
    "kernels/matmul/cpu/gemv.cpp",
)
SOURCES = (
    "csrc/cpu/features.cpp",
    "csrc/cpu/threads.cpp",
    "csrc/plan_checks.cpp",
    "kernels/matmul/cpu/plan.cpp",
    "tests/cpu/cross/matmul_check.cpp",
)

pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR} (Debian: g++-aarch64-linux-gnu, qemu-user)",
)


def test_matmul_on_aarch64(tmp_path: Path) -> None:
    jobs = [(source, LEVEL) for source in LEVEL_SOURCES] + [(source, ANY) for source in SOURCES]
    objects = []
    for source, flags in jobs:
        objects.append(str(tmp_path / f"{Path(source).stem}.o"))
        subprocess.run([COMPILER, *flags, "-Werror", "-c", source, "-o", objects[-1]], cwd=ROOT, check=True)
    program = str(tmp_path / "matmul_check")
    subprocess.run([COMPILER, *objects, "-fopenmp", "-o", program], check=True)
    # Both register tiles that kGemm in gemm.cpp lists for aarch64: of one and of two panels.
    ran = subprocess.run(
        [EMULATOR, "-L", LIBRARIES, program, "14", "8", "6", "16"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert ran.stdout.endswith(" cases, 0 wrong\n")
