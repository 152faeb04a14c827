"""tools/check_sass.py: what cuobjdump prints is read, and kernels off the matrix units are found."""

from __future__ import annotations

import importlib
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

_DUMP = """
Fatbin elf code:
================
arch = sm_90a
code version = [1,8]

	code for sm_90a
		Function : _ZN10tilewright4cuda11sm90_matmulIfEEvT_
	.headerflags	@"EF_CUDA_TEXMODE_UNIFIED"
        /*0000*/                   LDC R1, c[0x0][0x28] ;           /* 0x00000a00ff017b82 */
                                                                     /* 0x000e220000000800 */
        /*0010*/              @!P0 HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ; /* 0x01e0000004187df0 */
        /*0020*/              @UP1 UTMALDG.2D [UR8], [UR4] ;        /* 0x00000008040075b4 */
	code for sm_80
		Function : _ZN10tilewright4cuda12tiled_matmulIfEEvT_
        /*0000*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ; /* 0x0000000c0804723c */
        /*0010*/                   EXIT ;                           /* 0x000000000000794d */
"""


@pytest.fixture
def sass(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "tools"))
    return importlib.import_module("check_sass")


def test_what_cuobjdump_prints_is_read(sass: ModuleType) -> None:
    wide, tiled = sass.read(_DUMP.splitlines())
    assert (wide.arch, tiled.arch) == ("sm_90a", "sm_80")
    assert wide.opcodes == {"LDC": 1, "HGMMA": 1, "UTMALDG": 1}
    assert wide.fault() is None
    assert tiled.fault() is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("HGMMA.64x128x16", "HMMA.16816", "sm90_matmul"),
        ("HMMA.16816", "FFMA", "tiled_matmul"),
        ("EXIT ;", "STL [R1], R4 ;", "local memory: {'STL': 1}"),
        ("UTMALDG.2D", "LDL.64", "local memory: {'LDL': 1}"),
    ],
)
def test_the_exit_status(repository: Path, tmp_path: Path, old: str, new: str, expected: str) -> None:
    def check(dump: str) -> subprocess.CompletedProcess[str]:
        tool = tmp_path / "cuobjdump"
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{dump}\nEND\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        command = [sys.executable, str(repository / "tools/check_sass.py"), "--cuobjdump", str(tool), "_C.so"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = check(_DUMP)
    assert good.returncode == 0
    assert "1 with HGMMA, 1 with HMMA, 0 faults" in good.stdout
    bad = check(_DUMP.replace(old, new))
    assert bad.returncode == 1
    assert expected in bad.stderr
    assert check("").returncode == 1
