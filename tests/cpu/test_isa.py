"""ISA levels: what runs where, how a lower one is forced, and that no object leaks its instructions."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.cpu.support import LEVELS
from tilewright import _C


def _python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


_RUN = """
import torch
from tilewright.kernels.registry import backend
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.tuner.device import current
a = torch.randn(33, 40)
problem = MatmulProblem.from_tensors(a, a.t(), threads=2)
cpu = backend("matmul", "cpu")
config = next(iter(cpu.configs(problem, current("cpu"))))
torch.testing.assert_close(cpu.bind(config, problem)(a, a.t(), None, None), a @ a.t(), rtol=1e-4, atol=1e-4)
print(config.isa)
"""


@pytest.mark.parametrize("isa", LEVELS)
def test_a_level_can_be_forced(isa: str) -> None:
    result = _python(_RUN, TILEWRIGHT_CPU_ISA=isa)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == isa


@pytest.mark.parametrize("isa", ["avx1024", "AVX2", *sorted({"avx2", "avx512"} - set(LEVELS))])
def test_an_unknown_or_absent_level_is_a_clear_error(isa: str) -> None:
    result = _python(_RUN, TILEWRIGHT_CPU_ISA=isa)
    assert result.returncode == 1  # an exception, not a signal
    last = result.stderr.strip().splitlines()[-1]
    assert "ArgumentError" in last
    assert isa in last


def test_what_the_module_says_of_itself() -> None:
    info, built = _C.cpu_info(), _C.build_info()
    assert info["isa_levels"][0] == "portable"
    assert set(info["isa_levels"]) <= set(built["isa_levels"])
    assert {row["isa"] for row in _C.instances() if row["backend"] == "cpu"} == set(built["isa_levels"])


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_probes_return_plausible_rates(isa: str, dtype: str) -> None:
    assert 1e8 < _C.peak_flops(isa, dtype, 1, 0.0) < 1e13
    assert 1e8 < _C.read_bandwidth(1, 1 << 20, 0.0) < 1e13


def test_probes_reject_nonsense() -> None:
    for arguments in (("avx2000", "f32", 1, 0.0), ("portable", "f8", 1, 0.0), ("portable", "f32", 0, 0.0)):
        with pytest.raises(ValueError, match=r"expected|not built|must be"):
            _C.peak_flops(*arguments)
    with pytest.raises(ValueError, match="seconds"):
        _C.peak_flops("portable", "f32", 1, float("nan"))
    with pytest.raises(ValueError, match="bytes"):
        _C.read_bandwidth(1, 0, 0.0)


@pytest.fixture(scope="module")
def checker(repository: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(
        "check_isa_symbols", repository / "tools/check_isa_symbols.py"
    )
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_check_sees_shared_symbols(checker: ModuleType) -> None:
    listing = """bad.o:
_ZN10tilewright6avx5124loadEPKf W 0 10
_ZNK10tilewright6avx5125Table3getEv W 0 10
_ZZN10tilewright6avx5123runEvE5table d 0 10
_ZN10tilewright4avx24loadEPKf W 0 10
_ZN10tilewright6avx512loadEPKf W 0 10
_ZSt3minIlERKT_S2_S2_ W 0 10
_ZN10tilewright5sharedEv T 0 10
_Z6localsv t 0 10
helper T 0 10
"""
    found = [line.split()[0] for line in checker.foreign_symbols(listing, "avx512")]
    assert "_ZSt3minIlERKT_S2_S2_" in found
    assert "_ZN10tilewright4avx24loadEPKf" in found
    assert "_ZN10tilewright5sharedEv" in found
    assert "helper" in found
    assert "_ZN10tilewright6avx5124loadEPKf" not in found
    assert "_ZNK10tilewright6avx5125Table3getEv" not in found
    assert "_Z6localsv" not in found


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("nm") is None, reason="needs g++ and nm")
def test_the_check_fails_on_a_real_object(repository: Path, tmp_path: Path) -> None:
    source, header = tmp_path / "kernel.cpp", tmp_path / "shared.h"
    header.write_text("template <class T> T larger(T a, T b) { return a < b ? b : a; }\n")
    body = '#include "shared.h"\nnamespace tilewright::avx2 {{ int run(int a, int b) {{ return {}; }} }}\n'
    script = [sys.executable, str(repository / "tools/check_isa_symbols.py"), "--isa", "avx2"]
    for code, expression in ((1, "larger(a, b)"), (0, "a < b ? b : a")):
        source.write_text(body.format(expression))
        target = tmp_path / "kernel.o"
        subprocess.run(["g++", "-O0", "-c", str(source), "-o", str(target)], check=True)
        result = subprocess.run([*script, str(target)], capture_output=True, text=True)
        assert result.returncode == code, result.stderr
        assert ("larger" in result.stderr) == bool(code)
