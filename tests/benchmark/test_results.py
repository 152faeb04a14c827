"""Shapes, verdicts, ratios and what is written."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tilewright.benchmark.contenders import lineup
from tilewright.benchmark.conv2d.shapes import LISTS as CONV2D_LISTS
from tilewright.benchmark.matmul.operands import PREPACKED, MatmulOperands
from tilewright.benchmark.matmul.shapes import LISTS, ROWS, MatmulShape
from tilewright.benchmark.results import MEASURED_COLUMNS, OURS, PACKED, Entry, Report, ShapeResult
from tilewright.benchmark.run import run
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import Shape, families, named
from tilewright.benchmark.suite import suite
from tilewright.errors import ArgumentError

TINY = MatmulShape("tiny", 9, 17, 33)


def operands(
    dtype: torch.dtype = torch.float32, layout: str = "linear", shape: MatmulShape = TINY, bias: bool = True
) -> MatmulOperands:
    settings = Settings(dtype=dtype, layout=layout, bias=bias, activation="relu")
    return MatmulOperands(shape, settings, torch.device("cpu"), 1 << 14)


def entry(name: str, p50: float, right: bool = True) -> Entry:
    return Entry(name, p50, p50, p50, 5, 1e9, 1e-6, right)


def result(shape: Shape, *entries: Entry) -> ShapeResult:
    return ShapeResult(shape, "", 1000, 1000, 100, entries, {}, "cpu: gemm", 5, 0, True)


def report(*shapes: ShapeResult) -> Report:
    ceiling = {"flops": 1e9, "bandwidth": 1e9, "how": ""}
    eager, names = ("torch linear",), suite("matmul").torch
    return Report({}, {}, ceiling, "torch linear", eager, names, shapes=list(shapes))


def test_lists_hold_what_their_sources_say() -> None:
    assert {(s.n, s.k) for s in LISTS["llama"]} == {(12288, 4096), (4096, 4096), (11008, 4096), (4096, 11008)}
    assert {(s.n, s.k) for s in LISTS["bert"]} == {(2304, 768), (768, 768), (3072, 768), (768, 3072)}
    assert {(s.m, s.n, s.k) for s in LISTS["resnet"]} == {(m, 1000, 2048) for m in ROWS}
    assert min(s.m for s in LISTS["squares"]) == 256
    assert max(s.m for s in LISTS["squares"]) == 2048
    assert all(s.m == s.n == s.k for s in LISTS["squares"])


def test_named_lists() -> None:
    assert named("resnet, odd", LISTS) == LISTS["resnet"] + LISTS["odd"]
    everything = named("all", LISTS)
    assert len(everything) == len(set(everything)) == sum(map(len, LISTS.values()))
    assert named("odd,odd", LISTS) == LISTS["odd"]
    assert named("resnet@8", LISTS) == tuple(shape for shape in LISTS["resnet"] if shape.m == 8)
    with pytest.raises(ArgumentError, match="size 7777"):
        named("resnet@7777", LISTS)
    with pytest.raises(ArgumentError, match="expected one or more of bert"):
        named("resnet,alexnet", LISTS)


@pytest.mark.parametrize("lists", [LISTS, CONV2D_LISTS], ids=["matmul", "conv2d"])
def test_names_of_shapes_begin_with_the_list(lists: Mapping[str, Sequence[Shape]]) -> None:
    for name, shapes in lists.items():
        (family,) = families(shapes)
        assert name.startswith(family), "summaries by list go by the first word"


def test_summaries_use_every_shape_and_the_best_right_result() -> None:
    first, second = MatmulShape("a", 1, 1, 1), MatmulShape("b", 2, 2, 2)
    both = report(
        result(first, entry("torch linear", 2.0), entry("torch matmul", 1.0), entry(OURS, 1.0)),
        # A torch result that is wrong is no yardstick.
        result(second, entry("torch linear", 8.0), entry("torch matmul", 1.0, right=False), entry(OURS, 1.0)),
    )
    eager, best = both.summaries()
    assert (eager.against, eager.shapes) == ("torch linear", 2)
    assert eager.geomean == pytest.approx(4.0)
    assert (eager.worst, eager.worst_shape) == (2.0, str(first))
    assert best.geomean == pytest.approx(math.sqrt(8.0))
    assert best.worst == 1.0
    assert both.choices() == {"cpu": 2}
    assert [summary.worst for summary in both.summaries(family="b")] == [8.0, 8.0]
    assert both.to_dict()["lists"]["a"][OURS][0]["worst"] == 2.0


def test_packed_layers_are_summed_up_beside_plain_calls() -> None:
    found = report(result(TINY, entry("torch linear", 4.0), entry(PREPACKED, 2.0), entry(PACKED, 1.0)))
    assert found.summaries() == []
    assert [summary.geomean for summary in found.summaries(PACKED)] == [4.0, 2.0]
    assert [summary["geomean"] for summary in found.to_dict()["summaries"][PACKED]] == [4.0, 2.0]


def test_a_packed_contender_runs_on_packed_weights_of_its_own() -> None:
    given = operands()
    with torch.inference_mode():
        found = lineup(given, torch_contenders=False)
        (packed,) = [each for each in found.contenders if each.name == PACKED]
        y = packed.run(0)
        given.weights[0].zero_()
        assert torch.equal(packed.run(0), y)
    assert found.details[PACKED]


def test_floor_is_the_longer_of_arithmetic_and_memory() -> None:
    one = result(TINY, entry(OURS, 4e-6))
    found = report(one)
    assert found.floor(one) == pytest.approx(1e-6)
    assert found.roofline(one, one.entries[0]) == pytest.approx(0.25)
    found.ceiling["bandwidth"] = 1e7
    assert found.floor(one) == pytest.approx(1e-5)


def test_a_peak_that_results_beat_is_called_disturbed() -> None:
    found = report(result(TINY, entry(OURS, 1e-6)))
    assert not found.disturbed()
    found.ceiling["flops"] = 5e8
    assert found.disturbed()
    (only,) = found.shapes[0].entries
    found.shapes[0] = replace(found.shapes[0], entries=(replace(only, flops_tell=False),))
    assert not found.disturbed(), "an algorithm that computes less may beat the peak"
    found.shapes[0] = replace(found.shapes[0], entries=(only,))
    assert found.to_dict()["ceiling"]["disturbed"] is True


def test_wrong_results_of_ours_are_named() -> None:
    found = report(
        result(TINY, entry("torch linear", 1.0, right=False), entry(f"{OURS} cpu", 1.0, right=False))
    )
    assert len(found.wrong()) == 1
    assert "tilewright cpu on tiny" in found.wrong()[0]


def test_json_and_csv(tmp_path: Path) -> None:
    found = report(result(TINY, entry("torch linear", 2.0), entry(OURS, 1.0)))
    found.write_json(tmp_path / "r.json")
    found.write_csv(tmp_path / "r.csv")
    plain = json.loads((tmp_path / "r.json").read_text())
    assert plain["shapes"][0]["entries"][1]["roofline"] == pytest.approx(1e-6)
    assert plain["summaries"][OURS][0]["geomean"] == pytest.approx(2.0)
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert tuple(rows[0]) == ("shape", "m", "n", "k", *MEASURED_COLUMNS)
    assert [row["x_baseline"] for row in rows] == ["1.0", "2.0"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_judge_accepts_torch_and_refuses_errors(dtype: torch.dtype) -> None:
    given = operands(dtype)
    x, w, bias = given.x[0], given.as_matmul[0], given.biases[0]
    referee = given.judge("ieee")
    y = torch.relu(torch.addmm(bias, x, w))
    error, right = referee.error(y)
    assert right
    assert error < 0.05
    spoiled = y.clone()
    spoiled[-1, -1] += 0.25
    assert not referee.error(spoiled)[1]
    spoiled[-1, -1] = math.nan
    assert not referee.error(spoiled)[1]


def test_many_rows_are_sampled_with_first_and_last() -> None:
    referee = operands(shape=MatmulShape("tall", 1000, 3, 4), bias=False).judge("ieee")
    rows = referee.part(torch.arange(1000))
    assert len(rows) == 64
    assert rows[0] == 0
    assert rows[-1] == 999


def test_operands_outgrow_the_cache() -> None:
    given = operands()
    nbytes = 4 * (9 * 33 + 17 * 33 + 9 * 17)
    assert given.sets * nbytes >= 2 << 14
    assert len({w.data_ptr() for w in given.weights}) == given.sets


@pytest.mark.parametrize("layout", ["linear", "matmul"])
def test_every_contender_computes_the_same(layout: str) -> None:
    given = operands(layout=layout)
    with torch.inference_mode():
        found = lineup(given)
        names = {contender.name for contender in found.contenders}
        assert {"torch linear", "torch matmul", OURS, PACKED, f"{OURS} aten"} <= names
        assert PREPACKED in names | set(found.absent)
        results = []
        for contender in found.contenders:
            with contender.scope():
                results.append(contender.run(1))
    for y in results:
        torch.testing.assert_close(y, results[0], rtol=1e-5, atol=1e-5)


def test_the_oracle_is_no_contender() -> None:
    found = lineup(operands())
    assert f"{OURS} reference" not in {contender.name for contender in found.contenders} | set(found.absent)


def test_run_keeps_what_it_has_and_hands_failures_over() -> None:
    settings = Settings(compile_budget_s=0, budget_s=0, rounds=(2, 2), backends=())
    grown: list[int] = []
    failures: list[str] = []

    def before(shape: Shape, done: int) -> None:
        if shape.name == "bad":
            raise RuntimeError("out of memory")

    found = run(
        [TINY, MatmulShape("bad", 1, 2, 3), MatmulShape("one", 1, 8, 4)],
        settings,
        before=before,
        after=lambda report: grown.append(len(report.shapes)),
        failed=lambda shape, error: failures.append(f"{shape.name}: {error}"),
    )
    assert grown == [1, 2]
    assert failures == ["bad: out of memory"]
    assert [each.shape.name for each in found.shapes] == ["tiny", "one"]
    assert all(each.right for shape in found.shapes for each in shape.entries)
    assert found.environment["versions"]["torch"] == str(torch.__version__)
    assert found.ceiling["flops"] > 0
    assert found.ceiling["bandwidth"] > 0


def test_a_run_without_a_handler_raises() -> None:
    def before(shape: Shape, done: int) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run([TINY], Settings(compile_budget_s=0), before=before)


def test_threads_are_restored() -> None:
    ambient = torch.get_num_threads()
    found = run([TINY], Settings(threads=1, compile_budget_s=0, budget_s=0, rounds=(2, 2), backends=()))
    assert found.environment["threads"] == 1
    assert torch.get_num_threads() == ambient


@pytest.mark.parametrize("bandwidth", [1e7, 1e9])
def test_the_roof_rises_to_the_peak_and_ends_there(bandwidth: float) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    from tilewright.benchmark.plot import draw_roofline

    found = report(result(TINY, entry(OURS, 1.0)))  # 10 FLOP per byte: left of one ridge, right of the other
    found.ceiling["bandwidth"] = bandwidth
    figure, axes = pyplot.subplots()
    draw_roofline(axes, found)
    roof = axes.lines[0]
    heights = [float(height) for height in roof.get_ydata()]
    assert heights == sorted(heights)
    assert heights[-1] == 1.0
    assert list(roof.get_xdata()) == sorted(roof.get_xdata())
    pyplot.close(figure)
