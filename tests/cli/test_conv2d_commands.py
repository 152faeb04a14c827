"""``bench``, ``tune`` and ``explain conv2d`` at tiny sizes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tilewright
from tilewright.benchmark.conv2d.shapes import LISTS

Invoke = Callable[..., Any]

SMALL = ("--shape", "2x6x9x8", "--out-channels", 10, "--padding", 1)
FAST = ("--budget-s", 0)


def test_bench_writes_everything(invoke: Invoke, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / name for name in ("r.json", "r.csv", "r.png")]
    options = ("--json", paths[0], "--csv", paths[1], "--plot", paths[2])
    result = invoke(
        "bench", "conv2d", *SMALL, *FAST, "--stride", "2x1", "--residual", "--threads", 1, *options
    )
    assert result.exit_code == 0, result.output
    for expected in (
        "given 2×6×9×8 → 10 3x3 s2x1 p1",
        "torch nchw",
        "torch channels_last",
        "tilewright aten",
        "torch's better format over 1 shapes",
        "tilewright packed is",
    ):
        assert expected in result.stdout
    report = json.loads(paths[0].read_text())
    assert report["settings"]["layout"] == "channels_last"
    assert report["eager"] == ["torch channels_last", "torch nchw"]
    (shape,) = report["shapes"]
    assert shape["shape"]["kernel"] == [3, 3]
    assert all(entry["right"] for entry in shape["entries"])
    rows = list(csv.DictReader(paths[1].open()))
    assert {row["contender"] for row in rows} == {entry["contender"] for entry in shape["entries"]}
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_bench_of_lists_sums_up_each(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LISTS, "odd", LISTS["odd"][-1:])
    monkeypatch.setitem(LISTS, "mobilenetv2", LISTS["mobilenetv2"][9:10])
    result = invoke(
        "bench", "conv2d", "--shapes", "odd,mobilenetv2", "--dtype", "bf16", *FAST, "--layout", "nchw"
    )
    assert result.exit_code == 0, result.output
    assert "mobilenetv2 depthwise 1×960×7×7 → 960 3x3 p1 g960" in result.stdout
    assert "tilewright channels_last is" in result.stdout
    summed = [line.split()[0] for line in result.stdout.splitlines() if "best of torch" in line]
    assert {"odd", "mobilenetv2"} <= set(summed)


@pytest.mark.parametrize("direction", ["input_gradient", "weight_gradient"])
def test_bench_of_gradients(invoke: Invoke, direction: str) -> None:
    result = invoke("bench", "conv2d", *SMALL, *FAST, "--pass", direction)
    assert result.exit_code == 0, result.output
    assert "tilewright is" in result.stdout
    assert "oneDNN prepacked" not in result.stdout


def test_bench_fails_on_a_wrong_result(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.benchmark.conv2d import operands

    right = operands.conv2d
    monkeypatch.setattr(operands, "conv2d", lambda *args, **kwargs: right(*args, **kwargs) + 0.5)
    result = invoke("bench", "conv2d", *SMALL, *FAST)
    assert result.exit_code == 1
    assert "wrong result: tilewright on given 2×6×9×8" in result.stdout


def test_bench_tunes_all_that_it_times(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilewright.cli import problems

    monkeypatch.setattr(problems, "admits_more", lambda folder, loose, strict: True)
    out = tmp_path / "r.json"
    result = invoke("bench", "conv2d", *SMALL, *FAST, "--tune", "--tune-budget-s", 0.05, "--json", out)
    assert result.exit_code == 0, result.output
    (shape,) = json.loads(out.read_text())["shapes"]
    details = {entry["contender"]: entry["detail"] for entry in shape["entries"]}
    for contender in ("tilewright", "tilewright nchw", "tilewright packed"):
        assert details[contender].endswith("[store]")
    with tilewright.options(precision="tf32"), torch.no_grad():
        layer = tilewright.nn.Conv2d(6, 10, 3, padding=1, activation="relu").eval()
        layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.randn(2, 6, 9, 8).contiguous(memory_format=torch.channels_last)
        assert tilewright.explain(layer, x).choice.source == "store"


def test_tune_then_explain(invoke: Invoke, own_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.json"
    result = invoke(
        "tune", "conv2d", *SMALL, "--budget-s", 0.1, "--packed", "--activation", "silu", "--json", out
    )
    assert result.exit_code == 0, result.output
    plain, packed = json.loads(out.read_text())["results"]
    assert packed["problem"] == f"{plain['problem']} frozen"
    explained = json.loads(invoke("explain", "conv2d", *SMALL, "--activation", "silu", "--json").stdout)
    assert explained["operation"] == "conv2d"
    assert explained["choice"]["source"] == "store"
    assert explained["choice"]["config"]["text"] == plain["config"]
    layer = tilewright.nn.Conv2d(6, 10, 3, padding=1, activation="silu").eval()
    layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 6, 9, 8).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        choice = tilewright.explain(layer, x).choice
    assert (choice.source, str(choice.config)) == ("store", packed["config"])


def test_tuning_of_gradients_is_used(invoke: Invoke, own_store: Path) -> None:
    given = (*SMALL, "--pass", "weight_gradient")
    assert invoke("tune", "conv2d", *given, "--budget-s", 0.1).exit_code == 0
    explained = json.loads(invoke("explain", "conv2d", *given, "--json").stdout)
    assert explained["choice"]["source"] == "store"
    assert "weight_gradient" in explained["problem"]


def test_explain_says_why_not(invoke: Invoke) -> None:
    result = invoke("explain", "conv2d", *SMALL, "--residual", "--groups", 2)
    assert result.exit_code == 0, result.output
    for expected in ("residual", "g2", "runs ", "because ", "reference", "why not", "chosen"):
        assert expected in result.stdout


def test_explain_for_a_gpu_that_is_not_here(invoke: Invoke) -> None:
    given = ("--shape", "32x64x56x56", "--padding", 1, "--dtype", "bf16", "--device", "h100", "--json")
    result = invoke("explain", "conv2d", *given)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["device"]["arch"] == "sm_90"
    assert "aten" in {candidate["backend"] for candidate in found["candidates"]}
    assert sum(candidate["chosen"] for candidate in found["candidates"]) == 1


def test_tf32_admits_more_on_cpus(invoke: Invoke) -> None:
    given = ("explain", "conv2d", *SMALL, "--json")
    problems = [json.loads(invoke(*given, "--precision", precision).stdout) for precision in ("ieee", "tf32")]
    assert [found["problem"].rpartition(" t")[0].split()[-1] for found in problems] == ["ieee", "tf32"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--shapes", "alexnet"), "expected one or more of resnet50"),
        (("--shape", "3x4x5"), "--shape is '3x4x5'; expected NxCxHxW"),
        (("--shape", "1x-3x4x5"), "expected NxCxHxW"),
        (("--shape", "0x3x4x5"), "of 1 or more"),
        ((*SMALL, "--kernel", "3x3x3"), "--kernel is '3x3x3'; expected a number, or two"),
        ((*SMALL, "--kernel", 0), "of 1 or more"),
        ((*SMALL, "--stride", "a"), "--stride is 'a'"),
        ((*SMALL, "--padding", "valid"), "--padding is 'valid'"),
        ((*SMALL[:4], "--padding", "same", "--stride", 2), "at stride 1 alone"),
        ((*SMALL, "--kernel", 20), "empty output"),
        ((*SMALL, "--groups", 4), "expected a divisor of both"),
        ((*SMALL, "--layout", "linear"), "expected channels_last or nchw"),
        ((*SMALL, "--pass", "backward"), "expected one of forward, input_gradient, weight_gradient"),
        ((*SMALL, "--device", "tpu"), "expected cpu or cuda"),
        ((*SMALL, "--precision", "fp8"), "expected ieee or tf32"),
    ],
)
def test_bench_refuses_bad_arguments(invoke: Invoke, arguments: tuple[Any, ...], expected: str) -> None:
    result = invoke("bench", "conv2d", *arguments)
    assert result.exit_code == 2
    assert expected in result.output


def test_empty_problems_are_explained(invoke: Invoke) -> None:
    result = invoke("explain", "conv2d", "--shape", "0x4x5x5")
    assert result.exit_code == 0, result.output
