"""tools/check_device_code.py: PTX, shared memory and launches stand where the emulator can follow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def _check(repository: Path, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "tools/check_device_code.py"), str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_this_tree_is_clean(repository: Path) -> None:
    done = _check(repository, repository)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("file", "code", "expected"),
    [
        ("kernels/matmul/cuda/a.cuh", 'void f() {\n  asm volatile("bar.sync 0;");\n}', "a.cuh:2: asm"),
        ("csrc/cuda/a.cuh", '__asm__("nop;");', "a.cuh:1: asm"),
        ("kernels/conv2d/cuda/a.cu", "\n\n__shared__ float tile[32];", "a.cu:3: __shared__"),
        ("kernels/conv2d/cuda/a.cu", "f<<<1, 32>>>();", "a.cu:1: <<<"),
        ("csrc/cuda/ptx/a.cuh", 'asm("nop;");', ""),
        ("csrc/cuda/platform.cuh", "extern __shared__ char bytes[];", ""),
        ("kernels/matmul/cuda/a.cuh", "// asm, __shared__ and <<<\n/* asm\n */ int x; // f<<<1, 1>>>", ""),
        ("kernels/matmul/cuda/a.cuh", 'const char* s = "asm \\" __shared__";', ""),
        ("kernels/matmul/cuda/a.cuh", "int asmodeus = 1 << 3;", ""),
    ],
)
def test_what_is_found(repository: Path, tmp_path: Path, file: str, code: str, expected: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(code)
    done = _check(repository, tmp_path)
    assert (done.returncode != 0) == bool(expected)
    assert expected in done.stderr


def test_a_tree_without_device_code_is_no_clean_tree(repository: Path, tmp_path: Path) -> None:
    assert _check(repository, tmp_path).returncode != 0
