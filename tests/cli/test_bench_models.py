"""``tilewright bench models``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilewright.benchmark.models.contenders import ACCELERATED, BUILDERS, EAGER, EAGER_LAST

Invoke = Callable[..., Any]


def test_a_quick_run_writes_everything(invoke: Invoke, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / name for name in ("r.json", "r.csv", "r.png")]
    options = ("--json", paths[0], "--csv", paths[1], "--plot", paths[2], "--contenders", ACCELERATED)
    result = invoke(
        "bench", "models", "--quick", "--models", "resnet18,bert_base@1", "--batch", "2", *options
    )
    assert result.exit_code == 0, result.output
    for expected in ("resnet18 batch 2 small", "of peak", f"{ACCELERATED} is", "eager's better format"):
        assert expected in result.stdout
    report = json.loads(paths[0].read_text())
    assert {"device", "commit", "command", "date", "versions"} <= report["environment"].keys()
    assert [shape["label"] for shape in report["shapes"]] == [
        "resnet18 batch 2 small",
        "bert_base batch 1 small",
    ]
    found = [{entry["contender"] for entry in shape["entries"]} for shape in report["shapes"]]
    assert found == [{EAGER, EAGER_LAST, ACCELERATED}, {EAGER, ACCELERATED}]
    rows = list(csv.DictReader(paths[1].open()))
    assert len(rows) == 5
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_tuning_is_told_where_it_is_kept(invoke: Invoke, own_store: Path) -> None:
    options = ("--tune", "--tune-budget-s", 0.02, "--contenders", ACCELERATED)
    result = invoke("bench", "models", "--quick", "--models", "vit@1", *options)
    assert result.exit_code == 0, result.output
    assert any(own_store.iterdir()), "choices were stored"


def test_a_wrong_result_exits_with_one(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        BUILDERS, ACCELERATED, lambda given: lambda index: given.call(given.model, given.inputs[index]).neg()
    )
    options = ("--quick", "--models", "vit@1", "--contenders", ACCELERATED)
    result = invoke("bench", "models", *options)
    assert result.exit_code == 1
    assert "wrong result: tilewright accelerate on vit batch 1 small" in result.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--models", "alexnet"), "expected one or more of resnet18"),
        (("--models", "vit@7"), "no shape of vit has the size 7"),
        (("--batch", "1,x"), "--batch is '1,x'; expected positive integers"),
        (("--batch", "0"), "expected positive integers"),
        (("--contenders", "jax"), "--contenders is 'jax'; expected one of torch eager"),
        (("--json", "/nowhere/at/all.json"), "there is no directory /nowhere/at"),
    ],
)
def test_bad_arguments_are_refused(invoke: Invoke, options: tuple[Any, ...], expected: str) -> None:
    result = invoke("bench", "models", "--quick", *options)
    assert result.exit_code == 2
    assert expected in result.output
