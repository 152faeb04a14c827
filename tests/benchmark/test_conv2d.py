"""Convolutions' lists, contenders and verdicts."""

from __future__ import annotations

import csv
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import conv2d

from tilewright import dispatch
from tilewright.benchmark import contenders
from tilewright.benchmark.contenders import lineup
from tilewright.benchmark.conv2d.operands import EAGER, PREPACKED, Conv2dOperands
from tilewright.benchmark.conv2d.shapes import LAYOUTS, LISTS, Conv2dShape
from tilewright.benchmark.results import OURS, PACKED, PACKED_TF32, Entry, Report, ShapeResult
from tilewright.benchmark.run import run
from tilewright.benchmark.settings import DIRECTIONS, Settings
from tilewright.benchmark.suite import suite
from tilewright.errors import ArgumentError
from tilewright.tuner.recorder import recording

TINY = Conv2dShape("tiny", 3, 6, 9, 8, 10, (3, 3), (2, 1), (1, 1))
SHAPES = (
    TINY,
    Conv2dShape("grouped", 2, 8, 7, 7, 12, (3, 3), padding=(1, 1), groups=4),
    Conv2dShape("even", 1, 5, 8, 8, 6, (4, 2), padding="same", dilation=(1, 2)),
    Conv2dShape("pointwise", 2, 16, 5, 5, 8, (1, 1)),
)
CPU = torch.device("cpu")


def settings(**changes: object) -> Settings:
    given = Settings(operation="conv2d", layout="channels_last", activation="relu", compile_budget_s=0)
    return replace(given, **changes)  # type: ignore[arg-type]


def operands(shape: Conv2dShape = TINY, **changes: object) -> Conv2dOperands:
    return Conv2dOperands(shape, settings(**changes), CPU, 1 << 14)


def test_lists_hold_what_their_sources_say() -> None:
    resnet = [shape for shape in LISTS["resnet50"] if shape.n == 1]
    assert len(LISTS["resnet50"]) == 3 * len(resnet) == 3 * 23
    assert {shape.n for shape in LISTS["resnet50"]} == {1, 8, 32}
    assert resnet[0].kernel == (7, 7)
    assert sum(shape.kernel == (3, 3) for shape in resnet) == 7
    assert sum(shape.kernel == (1, 1) and shape.stride == (2, 2) for shape in resnet) == 3
    assert {shape.k for shape in resnet} == {64, 128, 256, 512, 1024, 2048}
    assert {shape.out_size for shape in resnet} == {(size, size) for size in (112, 56, 28, 14, 7)}
    for name, layers in (("mobilenetv2", 10), ("efficientnet", 12)):
        assert len(LISTS[name]) == 2 * layers
        assert all(shape.groups == shape.c == shape.k for shape in LISTS[name])
    assert {shape.kernel for shape in LISTS["efficientnet"]} == {(3, 3), (5, 5)}
    assert {shape.dilation[0] for shape in LISTS["dilated"]} == {2, 4, 12}
    assert {shape.groups for shape in LISTS["grouped"]} == {32}
    for name in ("unet", "dilated"):
        assert all(shape.out_size == (shape.h, shape.w) for shape in LISTS[name])
    every = [shape for shapes in LISTS.values() for shape in shapes]
    assert len(set(every)) == len(every)
    assert all(min(shape.out_size) > 0 and shape.c % shape.groups == 0 for shape in every)


@pytest.mark.parametrize("shape", [*SHAPES, *LISTS["odd"]], ids=str)
def test_required_flops_leave_padding_out(shape: Conv2dShape) -> None:
    """Of ones, a convolution counts the terms that meet the image."""
    x, weight = (
        torch.ones(1, shape.c // shape.groups, shape.h, shape.w),
        torch.ones(1, *shape.weight_shape[1:]),
    )
    counted = conv2d(x, weight, None, shape.stride, shape.padding, shape.dilation)
    assert tuple(counted.shape[2:]) == shape.out_size
    assert shape.required_flops() == 2 * shape.n * shape.k * int(counted.sum())


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_contender_computes_the_same(shape: Conv2dShape, layout: str, residual: bool) -> None:
    given = operands(shape, layout=layout, residual=residual)
    (other,) = set(LAYOUTS) - {layout}
    with torch.inference_mode():
        found = lineup(given)
        names = {contender.name for contender in found.contenders}
        assert {*EAGER.values(), OURS, f"{OURS} {other}", PACKED, f"{OURS} aten"} <= names
        assert set(PREPACKED.values()) <= names | set(found.absent)
        results = []
        for contender in found.contenders:
            with contender.scope():
                results.append(contender.run(1))
    for y in results:
        torch.testing.assert_close(y, results[0], rtol=1e-5, atol=1e-5)
    assert min(float(y.min()) for y in results) == 0.0, "relu"


@pytest.mark.parametrize("direction", DIRECTIONS[1:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_compared_with_torchs(shape: Conv2dShape, direction: str) -> None:
    given = operands(shape, direction=direction)
    with torch.inference_mode():
        found = lineup(given)
        results = {contender.name: contender.run(0) for contender in found.contenders[:4]}
        referee = given.judge("ieee")
    assert {*EAGER.values(), OURS} <= set(results)
    for name, gradient in results.items():
        assert referee.error(gradient)[1], name
        torch.testing.assert_close(gradient, results[OURS], rtol=1e-4, atol=1e-4)
    of = given.of("nchw")
    x, weight = (of[name][0].clone().requires_grad_() for name in ("x", "weight"))
    y = conv2d(x, weight, None, shape.stride, shape.padding, shape.dilation, shape.groups)
    expected = torch.autograd.grad(
        y, x if direction == "input_gradient" else weight, of["dy"][0].reshape(y.shape)
    )
    torch.testing.assert_close(results[OURS], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_what_is_tuned_is_what_a_call_runs(direction: str, layout: str, kernel: tuple[int, int]) -> None:
    shape = Conv2dShape("tuned", 2, 8, 6, 6, 16, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    given = operands(shape, direction=direction, layout=layout)
    dispatch.forget()
    with recording() as met:
        given.call(0)
    assert list(met) == [given.problem()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_judge_accepts_torch_and_refuses_errors(dtype: torch.dtype) -> None:
    given = operands(dtype=dtype)
    with torch.inference_mode():
        referee = given.judge("ieee")
        y = next(iter(given.eager())).run(0)
        error, right = referee.error(y)
        assert right
        assert error < 0.1
        for spoiled in (0.5, math.nan):
            wrong = y.clone()
            wrong[-1, -1, -1, -1] += spoiled
            assert not referee.error(wrong)[1]
        middle = y.clone()
        middle[1] += 1
        assert referee.error(middle)[1], "the first and the last image are looked at"


def test_tf32_is_judged_by_its_own_bound() -> None:
    given = operands()
    with torch.inference_mode():
        y = given.call(0) * (1 + 2.0**-12)
        assert not given.judge("ieee").error(y)[1]
        assert given.judge("tf32").error(y)[1]


@pytest.mark.parametrize("admits_more", [False, True])
def test_tf32_is_a_contender_where_it_admits_more(admits_more: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        contenders, "_runnable", lambda backend, problem, spec: {problem.precision if admits_more else ""}
    )
    with torch.inference_mode():
        found = lineup(operands(), torch_contenders=False)
    assert (PACKED_TF32 in found.details) is admits_more
    assert found.precisions == ({PACKED_TF32: "tf32"} if admits_more else {})


def test_the_baseline_is_the_better_format() -> None:
    def entry(name: str, p50: float, right: bool = True) -> Entry:
        return Entry(name, p50, p50, p50, 5, 1e9, 1e-6, right)

    names = suite("conv2d")
    nchw, last = EAGER["nchw"], EAGER["channels_last"]
    entries = entry(nchw, 3.0), entry(last, 2.0), entry(PREPACKED["nchw"], 1.5), entry(OURS, 1.0)
    result = ShapeResult(TINY, "", 1000, 900, 100, entries, {}, "cpu: direct", 5, 0, True)
    eager = names.eager(settings())
    found = Report(
        {}, {}, {"flops": 1e9, "bandwidth": 1e9}, "torch", eager, names.torch, names.summed, [result]
    )
    assert [summary.geomean for summary in found.summaries()] == pytest.approx([2.0, 1.5])
    assert found.floor(result) == pytest.approx(9e-7), "padding is no work"
    wrong = replace(result, entries=(entry(nchw, 3.0), entry(last, 2.0, right=False), entry(OURS, 1.0)))
    found.shapes = [wrong]
    assert [summary.geomean for summary in found.summaries()] == pytest.approx([3.0, 3.0])


def test_a_run_is_proved_summed_up_written_and_drawn(tmp_path: Path) -> None:
    given = settings(budget_s=0, rounds=(2, 2), residual=True)
    found = run(SHAPES[:2], given)
    assert all(entry.right for shape in found.shapes for entry in shape.entries)
    assert found.families() == ("tiny", "grouped")
    plain = found.to_dict()
    assert plain["settings"]["operation"] == "conv2d"
    assert set(plain["summaries"]) >= {OURS, PACKED, f"{OURS} nchw"}
    assert set(plain["lists"]) == {"tiny", "grouped"}
    found.write_csv(tmp_path / "r.csv")
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert list(rows[0])[: len(fields(TINY))] == ["shape", *(field.name for field in fields(TINY)[1:])]
    assert (rows[0]["kernel"], rows[0]["stride"]) == ("3x3", "2x1")
    pytest.importorskip("matplotlib")
    from tilewright.benchmark.plot import plot_report

    plot_report(found, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ArgumentError, match="channels_last or nchw"):
        operands(layout="linear")
