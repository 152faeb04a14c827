"""The demo: a network trained, proved equal, accelerated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")


from tilewright import demo
from tilewright.benchmark.models.contenders import ACCELERATED, BACKEND, EAGER, EAGER_LAST
from tilewright.benchmark.models.shapes import ModelShape
from tilewright.benchmark.results import Entry, Report, ShapeResult
from tilewright.examples import train_cnn
from tilewright.examples.training import Training
from tilewright.tuner import device


def test_quick_demo(invoke: Callable[..., Any], tmp_path: Path) -> None:
    if device.core() is None:
        pytest.skip("the compiled core is not built")
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    result = invoke("demo", "--quick", "--epochs", 6, "--out", out)
    assert result.exit_code == 0, result.output
    for expected in (
        "test accuracy",
        "cnn batch 1",
        "resnet18 batch 1 small",
        ACCELERATED,
        "left out by --quick",
        "What accelerate did",
        "What explain says",
    ):
        assert expected in result.stdout
    found = json.loads((out / "demo.json").read_text())
    assert found["problems"] == []
    assert found["ours"]["accuracy"] >= demo.LEAST_ACCURACY
    assert found["largest_gap"] <= demo.LARGEST_GAP
    ran = {EAGER, EAGER_LAST, ACCELERATED}
    shapes = found["latency"]["shapes"]
    assert [shape["label"] for shape in shapes] == ["cnn batch 1", "cnn batch 8", "resnet18 batch 1 small"]
    for shape in shapes:
        assert {entry["contender"] for entry in shape["entries"]} == ran
        assert shape["absent"][BACKEND] == "left out by --quick"
    assert found["accuracies"].keys() == {"cnn batch 1", "cnn batch 8"}
    for accuracies in found["accuracies"].values():
        assert accuracies.keys() == ran
        assert set(accuracies.values()) == {found["ours"]["accuracy"]}, "of the same network"
    assert found["accelerated"]
    assert found["explanation"]["operation"] == "conv2d"
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_refuses_a_file_as_its_directory(invoke: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = invoke("demo", "--out", file)
    assert result.exit_code == 2
    assert "which is a file" in result.output


def test_batches_go_through_every_test_image_once() -> None:
    data = train_cnn.EXAMPLE.data()
    for batch in demo.BATCHES:
        assert {len(part) for part in data.test_x.split(batch)} == {batch}


def result(*entries: Entry, **absent: str) -> ShapeResult:
    return ShapeResult(ModelShape("cnn", 1), "", 1000, 1000, 100, entries, absent, "", 5, 0, True)


def entry(name: str, right: bool = True) -> Entry:
    return Entry(name, 1.0, 1.0, 1.0, 5, 1e9, 1e-3, right)


def report(*results: ShapeResult) -> Report:
    return Report({}, {}, {"flops": 1e9, "bandwidth": 1e9}, EAGER, (EAGER,), (EAGER,), shapes=list(results))


def test_poor_training_is_a_problem() -> None:
    poor, good = Training([2.0, 1.0], 0.5, 1.0), Training([2.0, 0.5], 0.98, 1.0)
    found = demo.Demo(ours=poor, theirs=good)
    demo.judge_training(found)
    assert len(found.problems) == 2
    assert "tilewright: trained to 50.0% test accuracy" in found.problems[0]
    assert "loss curves differ by 0.5" in found.problems[1]
    found = demo.Demo(ours=Training([float("nan")], 0.98, 1.0), theirs=Training([1.0], 0.98, 1.0))
    demo.judge_training(found)
    assert any("differ by nan" in problem for problem in found.problems)


def test_wrong_and_missing_results_are_problems() -> None:
    training = Training([2.0, 0.5], 0.98, 1.0)
    found = demo.Demo(ours=training, theirs=training)
    demo.judge_results(found, report(result(entry(EAGER), entry(ACCELERATED))))
    assert found.problems == []
    demo.judge_results(found, report(result(entry(EAGER, right=False), entry(ACCELERATED, right=False))))
    assert found.problems == ["wrong result: tilewright accelerate on cnn batch 1: error 0.001"]
    found.problems.clear()
    demo.judge_results(found, report(result(entry(EAGER), **{ACCELERATED: "RuntimeError: no"})))
    assert found.problems == ["tilewright accelerate did not run cnn batch 1: RuntimeError: no"]


def test_demo_exits_with_one_if_something_is_wrong(
    invoke: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "LEAST_ACCURACY", 1.01)
    monkeypatch.setattr(demo, "BATCHES", (8,))
    monkeypatch.setattr(demo, "tune_training", lambda data, budget_s, progress: 0)
    result = invoke("demo", "--quick", "--epochs", 1, "--out", tmp_path)
    assert result.exit_code == 1
    assert "test accuracy, expected" in result.output
