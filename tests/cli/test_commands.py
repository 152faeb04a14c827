"""Every command at tiny sizes: what it prints, writes and exits with."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tilewright
from tilewright.benchmark.matmul.shapes import LISTS
from tilewright.kernels import registry
from tilewright.tuner import device
from tilewright.tuner.store import FILE_NAME

Invoke = Callable[..., Any]

SMALL = ("--m", 9, "--n", 17, "--k", 33)
FAST = ("--budget-s", 0, "--compile-budget-s", 0)


def needs_core() -> None:
    if device.core() is None:
        pytest.skip("the compiled core is not built")


# doctor


def test_doctor_as_json(invoke: Invoke, own_store: Path) -> None:
    result = invoke("doctor", "--no-measure", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["devices"][0]["kind"] == "cpu"
    assert found["devices"][0]["measured"] is False
    assert found["software"]["torch"].startswith(str(torch.__version__))
    assert found["store"]["file"] == str(own_store / FILE_NAME)
    listed = {(entry["backend"], entry["device"]): entry for entry in found["backends"]}
    assert {name for name, _ in listed} == set(registry.backends("matmul"))
    assert listed["reference", "cpu"]["absent"] == ""
    for entry in listed.values():
        assert bool(entry["absent"]) == bool(entry["remedy"]), "an absent backend without a remedy"
    if not torch.cuda.is_available():
        assert listed["aten", "cuda"]["absent"]


def test_doctor_measures_and_remembers(invoke: Invoke, own_store: Path) -> None:
    needs_core()
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for expected in ("measured fp32", "measured bandwidth", "backends", "L1", str(own_store)):
        assert expected in result.stdout
    again = json.loads(invoke("doctor", "--no-measure", "--json").stdout)
    assert again["devices"][0]["measured"] is True
    assert again["store"]["health"] == "good"


def test_doctor_names_a_store_that_is_no_store(invoke: Invoke, own_store: Path) -> None:
    own_store.mkdir()
    (own_store / FILE_NAME).write_bytes(b"this is no database, however long it may be" * 100)
    found = json.loads(invoke("doctor", "--no-measure", "--json").stdout)
    assert "cannot be read" in found["store"]["health"]


def test_doctor_counts_stale_choices(invoke: Invoke, own_store: Path) -> None:
    assert invoke("tune", "matmul", *SMALL, "--budget-s", 0.05).exit_code == 0
    with sqlite3.connect(own_store / FILE_NAME) as connection:
        connection.execute(
            "UPDATE choices SET provenance = replace(provenance, ?, '0.1')", [torch.__version__]
        )
    connection.close()
    assert "1 of them from another torch" in invoke("doctor", "--no-measure").stdout


# bench


def test_bench_writes_everything(invoke: Invoke, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / name for name in ("r.json", "r.csv", "r.png")]
    options = ("--json", paths[0], "--csv", paths[1], "--plot", paths[2])
    result = invoke("bench", "matmul", *SMALL, *FAST, "--activation", "gelu", "--threads", 1, *options)
    assert result.exit_code == 0, result.output
    for expected in (
        "torch linear",
        "torch matmul",
        "tilewright aten",
        "geomean",
        "chosen:",
        "tilewright packed is",
    ):
        assert expected in result.stdout
    report = json.loads(paths[0].read_text())
    assert report["environment"]["threads"] == 1
    assert {"device", "cpu", "commit", "command", "date", "versions"} <= report["environment"].keys()
    (shape,) = report["shapes"]
    assert all(entry["right"] for entry in shape["entries"])
    assert all(entry["p20"] <= entry["p50"] <= entry["p80"] for entry in shape["entries"])
    rows = list(csv.DictReader(paths[1].open()))
    assert {row["contender"] for row in rows} == {entry["contender"] for entry in shape["entries"]}
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_bench_of_a_list_in_bf16_without_bias(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LISTS, "odd", LISTS["odd"][3:5])
    out = tmp_path / "r.json"
    result = invoke(
        "bench",
        "matmul",
        "--shapes",
        "odd",
        "--dtype",
        "bf16",
        "--no-bias",
        *FAST,
        "--layout",
        "matmul",
        "--json",
        out,
    )
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert len(report["shapes"]) == 2
    assert report["baseline"] == "torch matmul"
    assert report["settings"]["dtype"] == "bf16"


def test_bench_tunes_first(invoke: Invoke) -> None:
    result = invoke("bench", "matmul", *SMALL, *FAST, "--tune", "--tune-budget-s", 0.05)
    assert result.exit_code == 0, result.output
    assert "[store]" in result.stdout


def test_bench_fails_on_a_wrong_result(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.benchmark.matmul import operands

    right = operands.linear
    monkeypatch.setattr(operands, "linear", lambda *args, **kwargs: right(*args, **kwargs) + 0.5)
    result = invoke("bench", "matmul", *SMALL, *FAST)
    assert result.exit_code == 1
    assert "WRONG" in result.stdout
    assert "wrong result: tilewright on given 9×17×33" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--shapes", "alexnet"), "expected one or more of bert"),
        (("--m", 3, "--k", 4), "--n missing"),
        (("--m", 0, "--n", 1, "--k", 1), "1 or more"),
        ((*SMALL, "--dtype", "int8"), "--dtype is 'int8'; expected f32, bf16 or f16"),
        ((*SMALL, "--activation", "tanh"), "expected one of none, relu"),
        ((*SMALL, "--layout", "diagonal"), "expected linear or matmul"),
        ((*SMALL, "--device", "tpu"), "expected cpu or cuda"),
        ((*SMALL, "--precision", "fp8"), "expected ieee or tf32"),
        ((*SMALL, "--json", "/nowhere/at/all.json"), "there is no directory /nowhere/at"),
        ((*SMALL, "--threads", 0), "threads"),
    ],
)
def test_bench_refuses_bad_arguments(invoke: Invoke, arguments: tuple[Any, ...], expected: str) -> None:
    result = invoke("bench", "matmul", *arguments)
    assert result.exit_code == 2
    assert expected in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["bench", "explain"])
def test_a_missing_gpu_is_named(invoke: Invoke, command: str) -> None:
    result = invoke(command, "matmul", *SMALL, "--device", "cuda")
    assert result.exit_code == 1
    assert "torch sees no CUDA device" in result.output


# tune and explain


def test_tune_then_explain(invoke: Invoke, own_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.json"
    result = invoke("tune", "matmul", *SMALL, "--budget-s", 0.1, "--activation", "silu", "--json", out)
    assert result.exit_code == 0, result.output
    assert str(own_store / FILE_NAME) in result.stdout
    (tuned,) = json.loads(out.read_text())["results"]
    assert tuned["seconds"] > 0
    explained = json.loads(invoke("explain", "matmul", *SMALL, "--activation", "silu", "--json").stdout)
    assert explained["choice"]["source"] == "store"
    assert explained["choice"]["backend"] == tuned["backend"]
    assert explained["choice"]["config"]["text"] == tuned["config"]


def test_tune_of_packed_weights_serves_layers(invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "tuned.json"
    result = invoke("tune", "matmul", *SMALL, "--budget-s", 0.1, "--packed", "--no-bias", "--json", out)
    assert result.exit_code == 0, result.output
    plain, packed = json.loads(out.read_text())["results"]
    assert packed["problem"] == f"{plain['problem']} frozen"
    m, n, k = (int(value) for value in SMALL[1::2])
    layer = tilewright.nn.Linear(k, n, bias=False).eval()
    with torch.no_grad():
        choice = tilewright.explain(layer, torch.randn(m, k)).choice
    assert (choice.source, str(choice.config)) == ("store", packed["config"])
    refused = invoke("tune", "matmul", *SMALL, "--packed", "--device", "cuda")
    assert refused.exit_code != 0


def test_tune_keeps_what_is_finished(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.tuner import tune

    one = tune.search
    calls = 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyboardInterrupt
        return one(*args, **kwargs)

    monkeypatch.setattr(tune, "search", interrupted)
    result = invoke("tune", "matmul", "--shapes", "odd", "--budget-s", 0.05)
    assert result.exit_code == 130
    assert "interrupted" in result.stdout
    assert "127x131x137" in result.stdout


def test_explain_says_why_not(invoke: Invoke) -> None:
    result = invoke("explain", "matmul", *SMALL)
    assert result.exit_code == 0, result.output
    for expected in ("runs ", "because ", "reference", "why not", "chosen"):
        assert expected in result.stdout


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_explain_for_a_gpu_that_is_not_here(invoke: Invoke, dtype: str) -> None:
    result = invoke(
        "explain",
        "matmul",
        "--m",
        64,
        "--n",
        3072,
        "--k",
        768,
        "--dtype",
        dtype,
        "--device",
        "h100",
        "--json",
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["device"]["arch"] == "sm_90"
    assert found["choice"]["backend"] in ("triton", "cuda", "aten")
    backends = {candidate["backend"] for candidate in found["candidates"]}
    assert {"triton", "aten"} <= backends
    assert sum(candidate["chosen"] for candidate in found["candidates"]) == 1
    assert all(c["chosen"] or c["reason"] for c in found["candidates"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*SMALL, "--device", "h99"), "--device is 'h99'; expected one of cpu, cuda, a100"),
        (("--m", 3, "--n", 4), "--k"),
        ((*SMALL, "--precision", "fp8"), "expected ieee or tf32"),
    ],
)
def test_explain_refuses_bad_arguments(invoke: Invoke, arguments: tuple[Any, ...], expected: str) -> None:
    result = invoke("explain", "matmul", *arguments)
    assert result.exit_code == 2
    assert expected in result.output


def test_empty_problems_are_explained(invoke: Invoke) -> None:
    result = invoke("explain", "matmul", "--m", 0, "--n", 4, "--k", 4)
    assert result.exit_code == 0, result.output
