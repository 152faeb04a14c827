"""What turns stored measurements stale."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import tilewright.kernels as kernels
from tilewright.tuner import device
from tilewright.tuner import provenance as module
from tilewright.tuner.provenance import changes, provenance, source_hash


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the kernels' folder, which the source hash is taken of."""
    root = tmp_path / "kernels"
    shutil.copytree(Path(kernels.__file__).parent, root)
    monkeypatch.setattr(kernels, "__file__", str(root / "__init__.py"))
    source_hash.cache_clear()
    yield root
    source_hash.cache_clear()


@pytest.mark.parametrize(
    ("file", "changes_it"),
    [
        ("matmul/problem.py", True),
        ("interface.py", True),
        ("matmul/triton/tiled.py", True),
        # Not what is compiled: an installed wheel has none of it, and the core says what it was made of.
        ("matmul/cpu/gemm.cpp", False),
        ("matmul/cpu/plan.h", False),
        ("matmul/README.md", False),
    ],
)
def test_the_source_hash_is_that_of_python_files(copied: Path, file: str, changes_it: bool) -> None:
    before = source_hash("matmul")
    with (copied / file).open("a") as stream:
        stream.write("\n")
    source_hash.cache_clear()
    assert (source_hash("matmul") != before) == changes_it


def test_another_binary_turns_the_rows_of_cpus_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = device.current("cpu")
    gpu = dataclasses.replace(cpu, kind="cuda")
    rows = {spec.kind: provenance("matmul", spec) for spec in (cpu, gpu)}
    assert not changes(rows["cpu"], provenance("matmul", cpu))
    monkeypatch.setattr(module, "binary_hash", lambda kind: {"cpu": "0123456789abcdef", "cuda": ""}[kind])
    assert changes(rows["cpu"], provenance("matmul", cpu)) == ("binary",)
    assert not changes(rows["cuda"], provenance("matmul", gpu))


def test_a_row_that_names_no_binary_is_stale_where_there_is_one() -> None:
    cpu = device.current("cpu")
    if device.core() is None:
        pytest.skip("the compiled core is not built")
    for spec in (cpu, dataclasses.replace(cpu, kind="cuda")):
        present = provenance("matmul", spec)
        expected = ("binary",) if present["binary"] else ()
        assert expected or spec.kind == "cuda"
        old = {name: value for name, value in present.items() if name != "binary"}
        assert changes(old, present) == expected


def test_the_binary_is_the_one_that_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    core = device.core()
    if core is not None:
        assert module.binary_hash() == core.build_info()["source_hash"] != ""
    monkeypatch.setattr(module, "core", lambda: None)
    assert module.binary_hash() == ""
