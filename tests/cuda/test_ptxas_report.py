"""tools/ptxas_report.py: what ptxas says is read, and a spill fails."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

_SAID = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4evenPf' for 'sm_80'
ptxas info    : Function properties for _Z4evenPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 90 registers, used 1 barriers, 1024 bytes smem, 512 bytes cmem[0]
ptxas info    : Compiling entry function '_Z4evenPf' for 'sm_90a'
ptxas info    : Function properties for _Z4evenPf
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers
ptxas info    : Function properties for _Z6calledf
    24 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""


@pytest.fixture
def report(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "tools"))
    return importlib.import_module("ptxas_report")


def test_what_ptxas_says_is_read(report: ModuleType) -> None:
    first, second, called = report.read(_SAID).kernels
    assert (first.name, first.arch, first.registers, first.shared, first.barriers) == (
        "_Z4evenPf",
        "sm_80",
        90,
        1024,
        1,
    )
    assert first.fault() is None
    assert (second.arch, second.registers, second.stack) == ("sm_90a", 168, 16)
    assert second.fault() == "spills 12 bytes of stores, 8 of loads"
    assert called.fault() == "keeps 24 bytes in local memory"
    assert "168" in report.table([first, second])


@pytest.mark.parametrize("code", ["C7510", "C7517", "C7519"])
def test_serialised_products_are_noticed(report: ModuleType, code: str) -> None:
    said = f"ptxas info    : ({code}) Potential Performance Loss: wgmma.mma_async instructions are serialized"
    assert report.read(_SAID + said).warnings == [said]
    assert report.read(_SAID).warnings == []


def test_files_of_one_architecture_are_compiled_for_it_alone(report: ModuleType) -> None:
    assert report.archs_of(Path("sm90_bf16.cu"), ("sm_80", "sm_90a")) == ["sm_90a"]
    assert report.archs_of(Path("sm90_bf16.cu"), ("sm_80",)) == []
    assert report.archs_of(Path("tiled.cu"), ("sm_80", "sm_90a")) == ["sm_80", "sm_90a"]


def test_every_cuda_source_is_compiled(report: ModuleType, repository: Path) -> None:
    assert {path.parent.parent.name for path in report.sources()} >= {"matmul", "conv2d"}
    assert len(report.sources()) == len(list(repository.glob("kernels/*/cuda/*.cu")))


def test_without_nvcc_it_says_so(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert report.main([]) == 0
    assert "no nvcc" in capsys.readouterr().out


_SPILLING = """
#include "cuda/platform.cuh"
__global__ void __launch_bounds__(1024) spilling(float* p, int n) {
  float v[128];
  for (int i = 0; i < 128; ++i) v[i] = p[i * n];
  for (int k = 0; k < n; ++k)
    for (int i = 0; i < 128; ++i) v[i] = v[i] * p[k] + v[(i * 7 + 1) % 128];
  for (int i = 0; i < 128; ++i) p[i * n] = v[i];
}
"""


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
@pytest.mark.parametrize("code", ["spilling", "even"])
def test_nvcc_and_the_exit_status(
    report: ModuleType, tmp_path: Path, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    even = '#include "cuda/platform.cuh"\n__global__ void even(float* p) { p[threadIdx.x] *= 2; }\n'
    file = tmp_path / f"{code}.cu"
    file.write_text(_SPILLING if code == "spilling" else even)
    status = report.main(["--arch", "sm_80", str(file)])
    out, err = capsys.readouterr()
    assert code in out
    assert (status, "FAIL" in err) == ((1, True) if code == "spilling" else (0, False))


def test_a_file_that_does_not_compile_fails(report: ModuleType, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on PATH")
    (tmp_path / "wrong.cu").write_text("__global__ void f( {")
    assert report.main(["--arch", "sm_80", str(tmp_path / "wrong.cu")]) == 1
