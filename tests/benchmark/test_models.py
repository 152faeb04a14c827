"""Models as subjects of a benchmark: work, verdicts, contenders, results."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tilewright import tuner
from tilewright.benchmark.contenders import COMPILED, CompileBudget, cannot_compile
from tilewright.benchmark.models.contenders import (
    ACCELERATED,
    ACCELERATED_TF32,
    AUTOTUNED,
    BACKEND,
    BACKEND_FROZEN,
    BUILDERS,
    EAGER,
    EAGER_LAST,
    FROZEN,
    RUNTIME,
    lineup,
)
from tilewright.benchmark.models.shapes import BATCHES, LISTS, ModelShape, made_small
from tilewright.benchmark.models.subject import ModelSubject
from tilewright.benchmark.run import run
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import families
from tilewright.benchmark.suite import suite
from tilewright.examples.models import MODELS

CPU = torch.device("cpu")
SETTINGS = Settings(operation="models", compile_budget_s=0, budget_s=0, rounds=(2, 2))
QUICK = tuple(name for name in BUILDERS if name != RUNTIME)
"""Exporting to ONNX takes seconds."""


def subject(name: str, batch: int = 2, **changes: Any) -> ModelSubject:
    settings = replace(SETTINGS, **{"contenders": QUICK, **changes})
    return ModelSubject(ModelShape(name, batch, small=True), settings, CPU, 1 << 20)


def tiny(**changes: Any) -> ModelSubject:
    """A model that compiles in a moment."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval().requires_grad_(False)
    inputs = [(torch.randn(3, 6),) for _ in range(4)]
    return ModelSubject(
        ModelShape("tiny", 3), replace(SETTINGS, **changes), CPU, 1 << 20, model=model, inputs=inputs
    )


def test_every_example_model_has_a_list() -> None:
    assert LISTS.keys() == MODELS.keys()
    for name, shapes in LISTS.items():
        assert [shape.batch for shape in shapes] == list(BATCHES)
        assert list(families(shapes)) == [name]
        assert str(made_small(shapes)[0]) == f"{name} batch 1 small"


@pytest.mark.parametrize("name", LISTS)
def test_every_contender_computes_the_same(name: str) -> None:
    given = subject(name)
    with torch.inference_mode():
        found = lineup(given)
        results = {}
        for contender in found.contenders:
            with contender.scope():
                results[contender.name] = contender.run(1)
    images = {EAGER_LAST, ACCELERATED_TF32} if name != "bert_base" else set()
    assert set(results) == {EAGER, ACCELERATED} | images
    largest = float(results[EAGER].abs().max())
    for contender_name, y in results.items():
        loose = 2.0**-9 if found.precisions.get(contender_name) == "tf32" else 1e-5
        torch.testing.assert_close(y, results[EAGER], rtol=1e-4, atol=loose * largest)
    assert set(found.absent) >= {COMPILED, AUTOTUNED, BACKEND}


def test_flops_of_a_full_model_are_the_published_ones() -> None:
    """ResNet-18 at 224×224 takes 1.8 billion multiply-adds (He et al., table 1), and each parameter is read."""
    work = ModelSubject(ModelShape("resnet18", 1), SETTINGS, CPU, 1 << 20).work()
    assert work.flops() == pytest.approx(2 * 1.81e9, rel=0.01)
    assert work.bytes() == pytest.approx(4 * 11.7e6 + 4 * 3 * 224**2, rel=0.01)
    assert "11.7 M parameters, 1x3x224x224" in work.describe()


def test_attention_is_counted() -> None:
    given = subject("bert_base", batch=1)
    tokens, width, hidden, layers = 16, 48, 96, 2
    per_layer = 2 * tokens * width * (4 * width + 2 * hidden) + 2 * 2 * tokens * tokens * width
    assert given.work().flops() == layers * per_layer


def test_judge_accepts_eager_and_refuses_errors() -> None:
    given = subject("resnet18")
    with torch.inference_mode():
        referee = given.judge("ieee")
        y = given.call(given.model, given.inputs[0])
        assert referee.error(y)[1]
        for wrong in (1e-2 * float(y.abs().max()), math.nan):
            spoiled = y.clone()
            spoiled[-1, -1] += wrong
            assert not referee.error(spoiled)[1]


def test_tf32_is_judged_by_its_own_bound() -> None:
    given = subject("resnet18")
    with torch.inference_mode():
        y = given.call(given.model, given.inputs[0]) * (1 + 2.0**-12)
        assert not given.judge("ieee").error(y)[1]
        assert given.judge("tf32").error(y)[1]
    found = run(made_small(LISTS["resnet18"][:1]), replace(SETTINGS, contenders=(EAGER, ACCELERATED_TF32)))
    (result,) = found.shapes
    # Of Winograd's algorithm, which may beat the peak.
    assert {entry.contender: entry.flops_tell for entry in result.entries} == {
        EAGER: True,
        ACCELERATED_TF32: False,
    }


def test_inputs_and_weights_stay_packable() -> None:
    with torch.inference_mode():
        given = subject("vgg11")
    assert not any(tensor.is_inference() for tensor in (*given.inputs[0], *given.model.parameters()))


@pytest.mark.skipif(cannot_compile(CPU) is not None, reason=str(cannot_compile(CPU)))
@pytest.mark.parametrize("name", [COMPILED, FROZEN, BACKEND, BACKEND_FROZEN])
def test_what_compiles_counts_on_the_budget(name: str) -> None:
    given, budget = tiny(contenders=(EAGER, name)), CompileBudget(1e-3)
    with torch.inference_mode():
        found = lineup(given, compile_budget=budget)
        assert [contender.name for contender in found.contenders] == [EAGER, name]
        assert budget.left < 0
        expected, y = (contender.run(2) for contender in found.contenders)
        torch.testing.assert_close(y, expected)
        again = lineup(given, compile_budget=budget)
    assert again.absent[name] == "the time for torch.compile was spent on other shapes"


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="ONNX Runtime and what exports to it are not installed",
)
def test_onnx_runtime_is_a_contender() -> None:
    given = subject("bert_base", contenders=(EAGER, RUNTIME))
    with torch.inference_mode():
        found = lineup(given)
        expected, y = (contender.run(1) for contender in found.contenders)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def missing(name: str, package: str | None = None) -> Any:
        return None if name == "onnxruntime" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", missing)

    def fails(given: ModelSubject) -> Callable[[int], Tensor]:
        raise RuntimeError("no memory\nat all")

    monkeypatch.setitem(BUILDERS, ACCELERATED, fails)
    found = lineup(tiny())
    assert found.absent[RUNTIME] == "onnxruntime not installed"
    assert found.absent[EAGER_LAST] == "the inputs are no images"
    assert found.absent[AUTOTUNED] == "was not asked for (--max-autotune)"
    assert found.absent[ACCELERATED] == "RuntimeError: no memory"


def test_tuning_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned: list[tuple[int, float | None]] = []

    def tune(problems: Any, *, budget_s: float | None, progress: bool) -> None:
        tuned.append((len(problems), budget_s))

    monkeypatch.setattr(tuner, "tune_problems", tune)
    lineup(tiny(contenders=(ACCELERATED,)))
    assert tuned == []
    given = tiny(contenders=(ACCELERATED,), tune_budget_s=0.25)
    lineup(given)
    assert tuned == [(2, 0.25)]
    lineup(given)
    assert tuned[1:] == [(0, 0.25)], "each problem once"


def test_a_run_is_proved_summed_up_written_and_drawn(tmp_path: Path) -> None:
    told: list[str] = []
    listed = made_small((*LISTS["resnet18"], LISTS["vit"][0]))
    found = run(listed, replace(SETTINGS, contenders=QUICK), doing=told.append)
    assert {EAGER, ACCELERATED, "timing"} <= set(told)
    assert all(entry.right for result in found.shapes for entry in result.entries)
    assert found.families() == ("resnet18", "vit")
    plain = found.to_dict()
    assert plain["settings"]["operation"] == "models"
    assert plain["rivals"] == "best of eager, torch.compile, ONNX Runtime"
    assert [summary["against"] for summary in plain["summaries"][ACCELERATED]] == [
        "eager's better format",
        "best of eager, torch.compile, ONNX Runtime",
    ]
    first = plain["shapes"][0]
    assert first["label"] == "resnet18 batch 1 small"
    peak = plain["ceiling"]["flops"]
    for entry in first["entries"]:
        assert entry["of_peak"] == pytest.approx(first["flops"] / entry["p50"] / peak)
    pytest.importorskip("matplotlib")
    from tilewright.benchmark.models.plot import plot_models

    plot_models(found, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_models_of_ours_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(given: ModelSubject) -> Callable[[int], Tensor]:
        return lambda index: given.call(given.model, given.inputs[index]) + 0.5

    monkeypatch.setitem(BUILDERS, ACCELERATED, wrong)
    found = run(made_small(LISTS["vit"][:1]), replace(SETTINGS, contenders=(EAGER, ACCELERATED)))
    assert len(found.wrong()) == 1
    assert f"{ACCELERATED} on vit batch 1 small: error 0.5" in found.wrong()[0]


def test_theirs_and_ours_are_all_of_the_contenders() -> None:
    names = suite("models")
    assert set(names.torch) | set(names.summed) == set(BUILDERS)
    assert not set(names.torch) & set(names.summed)
    assert not any("," in name for name in BUILDERS), "--contenders separates them by commas"
