"""``make gpu-check`` without a GPU: the refusal, the rehearsal, and steps that go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

MOST_FILES = 8


@pytest.fixture
def gpu_check(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    import importlib

    monkeypatch.syspath_prepend(str(repository / "tools"))
    return importlib.import_module("gpu_check")


def run(repository: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "tools" / "gpu_check.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("option", [(), ("--dry-run",)])
def test_refuses_without_a_gpu(repository: Path, tmp_path: Path, option: tuple[str, ...]) -> None:
    done = run(repository, "--out", tmp_path / "out", *option)
    assert done.returncode == 2
    assert "no CUDA device: torch" in done.stderr
    assert not (tmp_path / "out").exists()
    if option:
        assert "tune and time" in done.stdout


def test_rehearsal(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        repository,
        *("--out", out, "--cpu-rehearsal", "--skip-install", "--tune-s", 0.05, "--dtypes", "f32"),
        *("--tests", "tests/tuner/test_buckets.py"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    outcomes = {step["name"]: step["outcome"] for step in results["steps"]}
    assert outcomes == {
        "environment": "passed",
        "build and install": "skipped",
        "tests": "passed",
        "machine code": "skipped",
        "compute-sanitizer": "skipped",
        "tune and time": "passed",
    }
    assert set(results["runs"]) == {"matmul f32", "conv2d f32"}
    assert all(len(found["shapes"]) == 1 for found in results["runs"].values())
    assert len(results["tuning"]) == 2
    assert results["wrong"] == []
    assert json.loads((out / "tuned.json").read_text())["rows"]
    report = (out / "report.md").read_text()
    assert "| tests | passed |" in report
    assert "rehearsal 33×65×64" in report
    assert "rehearsal 2×16×9×9 → 24 3x3 p1" in report
    files = {path.name for path in out.iterdir()}
    assert {"results.json", "report.md", "tuned.json", "tests.xml"} < files
    assert len(files) <= MOST_FILES


def make_check(gpu_check: ModuleType, out: Path, *arguments: str) -> Any:
    return gpu_check.Check(
        gpu_check.parse(["--out", str(out), "--cpu-rehearsal", "--skip-install", *arguments])
    )


def test_failing_tests_fail_the_step_and_are_named(gpu_check: ModuleType, tmp_path: Path) -> None:
    bad = tmp_path / "test_bad.py"
    bad.write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    check = make_check(gpu_check, tmp_path / "out", "--tests", str(bad))
    check.step("tests", "test")
    (step,) = check.steps
    assert step.outcome == "failed"
    assert "1 passed, 1 failed" in step.detail
    assert step.facts["failures"][0].endswith("test_bad")
    assert "test_bad" in (tmp_path / "out" / "report.md").read_text()


def test_a_step_that_hangs_is_ended(gpu_check: ModuleType, tmp_path: Path) -> None:
    check = make_check(gpu_check, tmp_path)
    began = time.monotonic()
    status, output = check.run(
        [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"], 2.0
    )
    assert status == 124
    assert "begun" in output
    assert time.monotonic() - began < 30


def test_a_step_that_raises_does_not_end_the_check(gpu_check: ModuleType, tmp_path: Path) -> None:
    check = make_check(gpu_check, tmp_path)
    check.step("first", "no_such_method")
    check.step("second", "sanitize")
    assert [step.outcome for step in check.steps] == ["failed", "skipped"]
    assert "no_such_method" in check.steps[0].detail


def test_a_spent_budget_skips_what_is_left(gpu_check: ModuleType, tmp_path: Path) -> None:
    check = make_check(gpu_check, tmp_path, "--budget-s", "1")
    check.step("tests", "test")
    assert (check.steps[0].outcome, check.steps[0].detail) == ("skipped", "the budget was spent")
