"""The demo: a real network, trained and proved equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")

import torch

from tilewright import demo
from tilewright.tuner import device


def test_quick_demo(invoke: Callable[..., Any], tmp_path: Path) -> None:
    if device.core() is None:
        pytest.skip("the compiled core is not built")
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    result = invoke("demo", "--quick", "--out", out)
    assert result.exit_code == 0, result.output
    for expected in (
        demo.EAGER,
        demo.OUR_KERNELS,
        "left out by --quick",
        "What explain says",
        "test accuracy",
    ):
        assert expected in result.stdout
    found = json.loads((out / "demo.json").read_text())
    assert found["ours"]["accuracy"] >= 0.96
    assert found["largest_gap"] < 0.05
    assert found["problems"] == []
    assert {(row["batch"], row["name"]) for row in found["rows"]} == {
        (batch, name)
        for batch in (1, 8, 32, 128, 360, 512)
        for name in (demo.EAGER, demo.OURS, demo.OUR_KERNELS)
    }
    assert len(found["layers"]) == 6
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_refuses_a_file_as_its_directory(invoke: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = invoke("demo", "--out", file)
    assert result.exit_code == 2
    assert "which is a file" in result.output


def test_both_nets_start_equal_and_compute_the_same() -> None:
    data = demo.load_data()
    ours, theirs = demo.make_net(demo.TilewrightNet), demo.make_net(demo.TorchNet)
    x = data.batch(50)
    torch.testing.assert_close(ours(x), theirs(x))
    assert len(data.test_x) == 360
    assert len(data.batch(512)) == 512


def test_accuracy_counts_every_test_image_once() -> None:
    data = demo.load_data()
    answers = dict(zip(map(tuple, data.test_x.tolist()), data.test_y.tolist(), strict=True))

    def oracle(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([answers[tuple(row)] for row in x.tolist()]), 10)

    def mostly(x: torch.Tensor) -> torch.Tensor:
        y = oracle(x)
        return torch.where((x == data.test_x[0]).all(1, keepdim=True), 1 - y, y)

    for batch in (7, 360, 512):
        assert demo.accuracy(oracle, data, batch) == 1.0
        assert demo.accuracy(mostly, data, batch) == pytest.approx(359 / 360)


def test_poor_training_and_errors_are_problems() -> None:
    poor, good = demo.Training([2.0, 1.0], 0.5, 1.0), demo.Training([2.0, 0.5], 0.97, 1.0)
    found = demo.Demo(ours=poor, theirs=good)
    demo.judge(found)
    assert any("50.0% test accuracy" in problem for problem in found.problems)
    assert any("loss curves differ" in problem for problem in found.problems)
    found.problems.clear()
    demo._check_errors(found, 8, {demo.EAGER: 1e-6, demo.OURS: 1.9e-6, demo.OUR_KERNELS: 1e-4}, 1.0)
    assert len(found.problems) == 1
    assert demo.OUR_KERNELS in found.problems[0]
    demo._check_errors(found, 8, {demo.EAGER: 1e-6, demo.OURS: float("nan")}, 1.0)
    assert len(found.problems) == 2


def test_demo_exits_with_one_if_something_is_wrong(
    invoke: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "LEAST_ACCURACY", 1.01)
    whole = demo.compare
    monkeypatch.setattr(
        demo, "compare", lambda found, net, data, batches, **rest: whole(found, net, data, (8,), **rest)
    )
    result = invoke("demo", "--quick", "--epochs", 1, "--out", tmp_path)
    assert result.exit_code == 1
    assert "test accuracy, expected" in result.output
