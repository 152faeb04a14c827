"""From recorded problems to a stored winner, on the real operation with small problems."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.tuner import fakes
from tilewright.errors import ArgumentError, DeviceError, TuningError
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.tuner import device, probe, recorder, recording, select, timing, tune, tune_problems
from tilewright.tuner.provenance import changes, provenance, source_hash
from tilewright.tuner.search import TuneResult
from tilewright.tuner.store import Store, user_store


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No probing of the device, and a steady machine: these tests are about what happens, not how fast."""
    monkeypatch.setattr(tune.probe, "measure", lambda spec, index: spec)
    monkeypatch.setattr("tilewright.tuner.search.make_anchor", lambda spec: lambda: 1.0)


def matmul(m: int = 12, n: int = 16, k: int = 8, **options: Any) -> MatmulProblem:
    return MatmulProblem.from_tensors(torch.randn(m, k), torch.randn(k, n), threads=1, **options)


def test_recording_collects_distinct_problems_of_all_threads() -> None:
    one, other = matmul(), matmul(m=13)
    recorder.record("matmul", one)
    with recording() as outer:
        recorder.record("matmul", one)
        with recording() as inner:
            thread = threading.Thread(target=recorder.record, args=("matmul", other))
            thread.start()
            thread.join()
            recorder.record("matmul", one)
        recorder.record("matmul", one)
    recorder.record("matmul", matmul(m=99))
    assert list(outer) == [("matmul", one), ("matmul", other)]
    assert list(inner) == [("matmul", other), ("matmul", one)]


def test_tuning_stores_a_winner_that_is_then_chosen() -> None:
    problem = matmul()
    spec = device.current()
    assert select(problem, "matmul", spec).source == "cost model"
    report = tune_problems([("matmul", problem)], budget_s=0.3, progress=False, top_k=2)
    (result,) = report.results
    assert result.vendor_seconds is not None
    choice = select(problem, "matmul", spec)
    assert (choice.source, choice.backend, choice.config) == ("store", result.backend, result.config)
    (row,) = Store(user_store().path).every_row()
    assert (row.m, row.batch, row.provenance["m"]) == (12, 1, "12")
    assert {trial.backend for trial in row.trials()} >= {"aten"}
    assert not changes(row.provenance, provenance("matmul", spec))


def test_each_bucket_is_tuned_once_and_empty_problems_not_at_all() -> None:
    problems = [("matmul", matmul(m=m)) for m in (65, 64, 63, 66, 0)] + [
        ("matmul", matmul(m=8, activation="relu"))
    ]
    report = tune_problems(problems, budget_s=0.05, progress=False, top_k=1)
    assert [(r.problem.m, r.problem.activation) for r in report.results] == [(64, "none"), (8, "relu")]
    assert [reason for _, reason in report.skipped] == ["it is empty"]


def test_the_report_prints_and_serializes() -> None:
    report = tune_problems(
        [("matmul", matmul()), ("matmul", matmul(k=0))], budget_s=0.05, progress=False, top_k=1
    )
    text = str(report)
    assert "12x16x8" in text
    assert "not tuned" in text
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["results"][0]["speedup"] >= 1 / 1.02
    assert len(plain["results"][0]["trials"]) >= 2


def test_ctrl_c_keeps_what_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    search = tune.search
    calls = []

    def interrupted(*arguments: Any, **options: Any) -> TuneResult:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return search(*arguments, **options)

    monkeypatch.setattr(tune, "search", interrupted)
    problems = [("matmul", matmul(m=m)) for m in (4, 64, 512)]
    report = tune_problems(problems, budget_s=0.05, progress=False, top_k=1)
    assert report.interrupted
    assert [result.problem.m for result in report.results] == [4]
    assert len(Store(user_store().path).every_row()) == 1
    assert "interrupted" in str(report)


def test_a_problem_without_survivors_is_an_error_after_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    search = tune.search

    def failing(problem: Any, *arguments: Any, **options: Any) -> TuneResult:
        if problem.m == 4:
            raise TuningError("matmul: no candidate survived")
        return search(problem, *arguments, **options)

    monkeypatch.setattr(tune, "search", failing)
    with pytest.raises(TuningError, match="no candidate survived"):
        tune_problems([("matmul", matmul(m=4)), ("matmul", matmul(m=64))], budget_s=0.05, progress=False)
    assert [row.m for row in user_store().every_row()] == [64]


@pytest.mark.parametrize("arguments", [{"budget_s": 0}, {"budget_s": float("nan")}, {"top_k": 0}])
def test_nonsense_is_an_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="tune"):
        tune_problems([], **arguments)


def test_progress_without_rich_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    tune_problems([("matmul", matmul(m=4)), ("matmul", matmul(m=64))], budget_s=0.05, top_k=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["tuning 1 of 2", "tuning 2 of 2"]


def test_the_source_hash_is_stable_and_tells_operations_apart() -> None:
    first = source_hash("matmul")
    source_hash.cache_clear()
    assert source_hash("matmul") == first != source_hash("nothing")


# Probes


class FakeCore:
    """Stands for the compiled module."""

    def __init__(self, bf16: bool, share: float = 1.0) -> None:
        self._bf16 = bf16
        self.share = share  # of its rate that the whole team shows

    def cpu_info(self) -> dict[str, Any]:
        return {"model": "Probed CPU", "isa_levels": ["portable", "avx2"], "features": []}

    def peak_flops(self, isa: str, dtype: str, threads: int, seconds: float) -> float:
        assert isa == "avx2"
        if dtype == "bf16" and not self._bf16:
            raise ValueError("no such instructions")
        rate = {"f32": 1e11, "bf16": 2e11}[dtype]
        if threads == 1:
            return rate / device.current().units
        assert threads == device.current().units
        return rate * self.share

    def read_bandwidth(self, threads: int, size: int, seconds: float) -> float:
        assert size >= 4 * device.current().llc_bytes
        return 3e10 if threads == device.current().units else 2e10


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    def run(core: Any) -> Any:
        monkeypatch.setattr(device, "core", lambda: core)
        device.forget()
        return _REAL_MEASURE(device.current())

    return run


_REAL_MEASURE = probe.measure
_REAL_PRODUCT_RATE = probe._cpu_product_rate


@pytest.mark.parametrize("bf16", [True, False])
def test_measured_rates_are_there_for_later_processes(
    measure: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    monkeypatch.setattr(probe, "_cpu_product_rate", lambda dtype, threads: 1e9)
    spec = measure(FakeCore(bf16))
    assert spec.measured
    assert (spec.peak_fp32, spec.peak_16bit, spec.bandwidth) == (1e11, 2e11 if bf16 else 1e11, 3e10)
    assert Store(user_store().path).rates(device.device_key(spec)) is not None
    device.forget()
    assert device.current() == spec


def test_a_peak_is_no_less_than_what_torch_reaches(
    measure: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_cpu_product_rate", lambda dtype, threads: 9e11 if threads > 1 else 1e9)
    spec = measure(FakeCore(bf16=True))
    assert spec.peak_16bit == (9e11 if spec.units > 1 else 2e11)


def test_a_busy_machine_does_not_hide_its_peak(
    measure: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A team of threads that always waits for a late one shows a tenth of the rate; one core shows its own."""
    monkeypatch.setattr(probe, "_cpu_product_rate", lambda dtype, threads: 1e9)
    spec = measure(FakeCore(bf16=True, share=0.1))
    assert spec.peak_fp32 == pytest.approx(1e11 if spec.units == 1 else 0.7e11)
    assert spec.peak_16bit == pytest.approx(2 * spec.peak_fp32)


def test_the_product_probe_gives_a_rate_and_puts_the_threads_back() -> None:
    threads = torch.get_num_threads()
    assert 1e6 < _REAL_PRODUCT_RATE(torch.bfloat16, 1, 64) < 1e15
    assert torch.get_num_threads() == threads


def test_without_the_core_nothing_can_be_probed(measure: Callable[[Any], Any]) -> None:
    with pytest.raises(DeviceError, match="compiled module"):
        measure(None)


def test_the_anchor_works_without_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "core", lambda: None)
    assert timing.make_anchor(fakes.DEVICE)() > 0


def test_the_real_probe_gives_plausible_rates() -> None:
    core = device.core()
    if core is None:
        pytest.skip("the compiled module is not built")
    spec = device.current()
    assert 1e8 < timing.make_anchor(spec)() < 1e15


@pytest.mark.parametrize(
    ("seconds", "steady", "replaced"), [(9.0, True, True), (0.5, False, True), (2.0, False, False)]
)
def test_what_was_measured_unsteadily_is_searched_again(
    monkeypatch: pytest.MonkeyPatch, seconds: float, steady: bool, replaced: bool
) -> None:
    real = tune.search
    outcomes = [(1.0, False), (seconds, steady)]
    problem = matmul(m=40)

    def search(*args: Any, **kwargs: Any) -> TuneResult:
        took, calm = outcomes.pop(0)
        return dataclasses.replace(real(*args, **kwargs), seconds=took, steady=calm)

    monkeypatch.setattr(tune, "search", search)
    report = tune_problems([("matmul", problem)], budget_s=0.05, progress=False, top_k=1)
    assert not outcomes
    (result,) = report.results
    assert result.seconds == (seconds if replaced else 1.0)
    (row,) = [
        row for row in Store(user_store().path).every_row() if row.m == 48 or row.m == 40 or row.m == 32
    ]
    assert row.seconds == result.seconds
