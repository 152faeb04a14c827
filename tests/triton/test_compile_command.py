"""``tilewright compile``: its table, its JSON and its exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tilewright import aot

typer = pytest.importorskip("typer", reason="the extra 'cli' is not installed")
pytest.importorskip("triton", reason="Triton is not installed")

from typer.testing import CliRunner  # noqa: E402

from tilewright.cli.compile import compile_command  # noqa: E402

APP = typer.Typer()
APP.command()(compile_command)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})


def fake(*changes: dict[str, Any]) -> Any:
    """A compiler whose results differ from a good one as told."""
    good = aot.Compiled(
        operation="matmul",
        config="tiled 64x64x64 g8 k1 w4 s4",
        problem="matmul 64x64x64",
        dtype="float16",
        arch="sm_90",
        declared_shared=65600,
        kernel="tiled_matmul",
        seconds=1.0,
        shared=65536,
        registers=90,
        stack=0,
        matrix_instructions=("wgmma m64n64k16",),
    )

    def compile_all(jobs: list[aot.Job], workers: int, timeout: float) -> Iterator[list[aot.Compiled]]:
        for change in changes:
            yield [replace(good, **change)]

    return compile_all


def test_compiles_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    result = run("--arch", "sm_90", "--dtype", "bf16", "--limit", "1", "--jobs", "1", "--json", str(path))
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text())
    assert [row["operation"] for row in rows] == ["conv2d", "matmul"]
    for row in rows:
        assert row["config"] in result.output
        assert row["arch"] == "sm_90"
        assert row["dtype"] == "bfloat16"
        assert row["matrix_instructions"][0].startswith("wgmma")
    assert "wgmma" in result.output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"error": "CompilationError: no"}, "CompilationError"),
        ({"stack": 400}, "400"),
        ({"shared": 70000}, "70000 > 65600"),
    ],
)
def test_status_is_1_if_one_kernel_is_bad(
    change: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aot, "compile_all", fake({}, change))
    result = run("--arch", "sm_90", "--limit", "2")
    assert result.exit_code == 1
    assert says in result.output
    assert "1 not as they should be" in result.output


def test_unknown_registers_are_named_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        aot, "compile_all", fake({"registers": None, "stack": None, "unknown": "no cuobjdump"})
    )
    result = run("--arch", "sm_90", "--limit", "1")
    assert result.exit_code == 0
    assert "no cuobjdump" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--arch", "sm_42"), "sm_42"),
        (("--operation", "sorting"), "sorting"),
        (("--dtype", "f8"), "f8"),
    ],
)
def test_bad_arguments_say_what_is_expected(arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert "expected" in result.output


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run()
    assert result.exit_code == 1
    assert "pip install" in result.output
