from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.conftest import Install
from tests.tuner.fakes import DEVICE, OPERATION, Backend, Config, Problem
from tilewright.errors import ArgumentError, DeviceError, FormatError
from tilewright.kernels.interface import Absence
from tilewright.tuner import cost_model, shipped
from tilewright.tuner.buckets import bucket
from tilewright.tuner.device import device_key
from tilewright.tuner.provenance import provenance
from tilewright.tuner.rows import ConfigFields, Row, Trial, encode_trials, rebuild
from tilewright.tuner.select import candidates, select
from tilewright.tuner.store import Store, user_store

PROBLEM = Problem()
BIG = Config("one", 64)
SMALL = Config("one", 8)


def stored(
    problem: Problem = PROBLEM,
    backend: str = "cpu",
    config: Config | ConfigFields = SMALL,
    trials: tuple[Trial, ...] = (),
    **changed: str,
) -> Row:
    fields = asdict(config) if isinstance(config, Config) else config
    return Row(
        device=device_key(DEVICE),
        operation=OPERATION,
        family=problem.family(),
        m=bucket(problem.m),
        batch=bucket(problem.batch),
        backend=backend,
        config=fields,
        seconds=1e-6,
        trials_json=encode_trials(trials),
        provenance=provenance(OPERATION, DEVICE) | changed,
    )


@pytest.fixture
def predictions(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that the cost model predicts, by backend and printed config or by backend alone."""
    table: dict[str, float] = {}

    def predict(operation: str, backend: str, config: Any, problem: Any, device: Any) -> float:
        return table.get(f"{backend} {config}", table.get(backend, 1.0))

    monkeypatch.setattr(cost_model, "expected_seconds", predict)
    return table


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the shipped table of the imaginary device may be written."""
    monkeypatch.setattr(shipped.resources, "files", lambda package: tmp_path)
    (tmp_path / "tuned").mkdir()
    return tmp_path / "tuned" / shipped.file_name(device_key(DEVICE))


def ship(path: Path, *rows: Row) -> None:
    shipped.write(path, device_key(DEVICE), rows)
    shipped.table.cache_clear()


def test_the_order_is_explicit_store_shipped_model(
    install: Install, predictions: dict[str, float], table: Path
) -> None:
    install(Backend("cpu", configs=[BIG, SMALL]), Backend("aten"), Backend("reference"))
    predictions |= {"cpu": 1.0, "aten": 2.0}
    assert select(PROBLEM, OPERATION, DEVICE).source == "cost model"
    ship(table, stored(config=BIG))
    choice = select(PROBLEM, OPERATION, DEVICE)
    assert (choice.source, choice.config) == ("shipped", BIG)
    user_store().put(stored(config=SMALL))
    choice = select(PROBLEM, OPERATION, DEVICE)
    assert (choice.source, choice.config) == ("store", SMALL)
    choice = select(PROBLEM, OPERATION, DEVICE, backend="aten")
    assert (choice.source, choice.backend) == ("explicit", "aten")
    choice = select(PROBLEM, OPERATION, DEVICE, backend="cpu", config=BIG)
    assert (choice.source, choice.config) == ("explicit", BIG)


def test_a_stale_row_comes_after_fresh_ones_and_says_so(
    install: Install, predictions: dict[str, float], table: Path
) -> None:
    install(Backend("cpu", configs=[BIG, SMALL]), Backend("aten"))
    user_store().put(stored(config=SMALL, torch="0.1", source="other"))
    choice = select(PROBLEM, OPERATION, DEVICE)
    assert (choice.source, choice.config) == ("store", SMALL)
    assert "stale: source, torch changed since" in choice.detail
    ship(table, stored(config=BIG))
    choice = select(PROBLEM, OPERATION, DEVICE)
    assert (choice.source, choice.config) == ("shipped", BIG)
    ship(table, stored(config=BIG, torch="0.1"))
    assert select(PROBLEM, OPERATION, DEVICE).source == "store"


def test_the_nearest_bucket_serves_until_its_own_is_tuned(
    install: Install, predictions: dict[str, float]
) -> None:
    install(Backend("cpu", configs=[BIG, SMALL]), Backend("aten"))
    user_store().put(stored(Problem(m=64), config=SMALL))
    user_store().put(stored(Problem(m=256), config=BIG))
    assert select(Problem(m=80), OPERATION, DEVICE).config == SMALL
    choice = select(Problem(m=200), OPERATION, DEVICE)
    assert choice.config == BIG
    assert "M=256" in choice.detail
    assert select(Problem(m=16), OPERATION, DEVICE).source == "store"
    assert select(Problem(m=15), OPERATION, DEVICE).source == "store"  # 15 is in the bucket of 16
    assert select(Problem(m=2), OPERATION, DEVICE).source == "cost model"
    assert select(Problem(m=64, batch=64), OPERATION, DEVICE).source == "cost model"
    assert select(Problem(m=64, name="other"), OPERATION, DEVICE).source == "cost model"


def test_a_stored_config_that_is_rejected_gives_way_to_the_next_fastest(
    install: Install, predictions: dict[str, float]
) -> None:
    def odd(config: Config, problem: Problem) -> str | None:
        return "needs even M" if config == SMALL and problem.m % 2 else None

    install(Backend("cpu", configs=[BIG, SMALL], rejects=odd), Backend("aten"))
    trials = (
        Trial("cpu", asdict(SMALL), 1e-6),
        Trial("aten", asdict(Config()), 3e-6),
        Trial("cpu", asdict(BIG), 2e-6),
        Trial("cpu", asdict(Config("wrong")), None, "y is wrong"),
    )
    user_store().put(stored(config=SMALL, trials=trials))
    assert select(Problem(m=64), OPERATION, DEVICE).config == SMALL
    choice = select(Problem(m=65), OPERATION, DEVICE)
    assert (choice.source, choice.config, choice.expected_seconds) == ("store", BIG, 2e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"algorithm": "one", "block_m": 8, "more": 1},
        {"algorithm": 3, "block_m": 8},
        {"algorithm": "one", "block_m": "8"},
        {"algorithm": "one", "block_m": True},
    ],
)
def test_stored_fields_that_make_no_config_are_ignored(
    install: Install, predictions: dict[str, float], fields: ConfigFields, caplog: pytest.LogCaptureFixture
) -> None:
    backend = install(Backend("cpu"), Backend("aten"))["cpu"]
    user_store().put(stored(config=fields))
    for _ in range(3):
        assert select(PROBLEM, OPERATION, DEVICE).source == "cost model"
    assert len(caplog.records) == 1
    with pytest.raises(FormatError):
        rebuild(backend, fields)


def test_a_stored_config_that_rejects_refuses_is_never_launched(
    install: Install, predictions: dict[str, float]
) -> None:
    install(
        Backend("cpu", rejects=lambda config, _: "too large" if config.block_m > 64 else None),
        Backend("aten"),
    )
    user_store().put(stored(config=Config("one", 2**30)))
    assert select(PROBLEM, OPERATION, DEVICE).source == "cost model"


def test_a_stored_backend_that_is_absent_or_unknown_is_passed_over(
    install: Install, predictions: dict[str, float]
) -> None:
    install(Backend("cpu", absence=Absence("not built", "build it")), Backend("aten"))
    for backend in ("cpu", "triton"):
        user_store().put(stored(backend=backend))
        assert select(PROBLEM, OPERATION, DEVICE).source == "cost model"


@pytest.mark.parametrize(
    ("ours", "chosen"),
    [
        (1.0, "cpu"),
        (2.0 / cost_model.MARGIN * 0.999, "cpu"),
        (2.0 / cost_model.MARGIN * 1.001, "aten"),
        (3.0, "aten"),
    ],
)
def test_untuned_ours_needs_a_clear_margin(
    install: Install, predictions: dict[str, float], ours: float, chosen: str
) -> None:
    install(Backend("cpu"), Backend("aten"), Backend("reference"))
    predictions |= {"cpu": ours, "aten": 2.0, "reference": 0.001}
    assert select(PROBLEM, OPERATION, DEVICE).backend == chosen


def test_the_reference_is_the_last_resort(install: Install, predictions: dict[str, float]) -> None:
    def never(config: Config, problem: Problem) -> str | None:
        return "takes no such problem"

    install(Backend("cpu", rejects=never), Backend("aten", rejects=never), Backend("reference"))
    assert select(PROBLEM, OPERATION, DEVICE).backend == "reference"
    install(Backend("cpu"), Backend("aten", rejects=never), Backend("reference"))
    assert select(PROBLEM, OPERATION, DEVICE).backend == "cpu"
    install(Backend("cpu", rejects=never))
    with pytest.raises(DeviceError, match="takes no such problem"):
        select(PROBLEM, OPERATION, DEVICE)


def test_the_model_takes_the_config_that_it_predicts_fastest(
    install: Install, predictions: dict[str, float]
) -> None:
    install(Backend("cpu", configs=[BIG, SMALL]), Backend("aten"))
    predictions |= {f"cpu {SMALL}": 1e-3, f"cpu {BIG}": 2e-3, "aten": 1.0}
    assert select(PROBLEM, OPERATION, DEVICE).config == SMALL


def test_an_explicit_backend_takes_its_best_stored_config(
    install: Install, predictions: dict[str, float]
) -> None:
    install(Backend("cpu", configs=[BIG, SMALL]), Backend("aten"))
    trials = (Trial("aten", asdict(Config()), 1e-6), Trial("cpu", asdict(SMALL), 2e-6))
    user_store().put(stored(backend="aten", config=Config(), trials=trials))
    predictions |= {f"cpu {SMALL}": 9.0}
    choice = select(PROBLEM, OPERATION, DEVICE, backend="cpu")
    assert (choice.source, choice.config, choice.expected_seconds) == ("explicit", SMALL, 2e-6)


def test_what_cannot_run_falls_back_with_one_warning_or_raises(
    install: Install, predictions: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    install(
        Backend("triton", absence=Absence("Triton is not installed", "pip install triton")),
        Backend("cpu", rejects=lambda config, _: "too small" if config == SMALL else None),
        Backend("aten"),
    )
    for _ in range(3):
        assert select(PROBLEM, OPERATION, DEVICE, backend="triton").source == "cost model"
        assert select(PROBLEM, OPERATION, DEVICE, backend="cpu", config=SMALL).source == "cost model"
    assert len(caplog.records) == 2
    assert "pip install triton" in caplog.text
    with pytest.raises(DeviceError, match="Triton is not installed; pip install triton"):
        select(PROBLEM, OPERATION, DEVICE, backend="triton", strict=True)
    with pytest.raises(ArgumentError, match="too small"):
        select(PROBLEM, OPERATION, DEVICE, backend="cpu", config=SMALL, strict=True)


def test_nonsense_raises_strict_or_not(install: Install) -> None:
    install(Backend("cpu"), Backend("aten"))
    with pytest.raises(ArgumentError, match="Config"):
        select(PROBLEM, OPERATION, DEVICE, backend="cpu", config="fast")
    with pytest.raises(ArgumentError, match="no backend"):
        select(PROBLEM, OPERATION, DEVICE, config=SMALL)
    with pytest.raises(ArgumentError, match="expected one of"):
        select(Problem(), "matmul", DEVICE, backend="abacus")


def test_candidates_say_why_each_was_not_taken(install: Install, predictions: dict[str, float]) -> None:
    install(
        Backend("cuda", absence=Absence("no GPU", "buy one")),
        Backend("cpu", configs=[BIG, SMALL], rejects=lambda c, _: "too big" if c == BIG else None),
        Backend("aten"),
        Backend("reference"),
    )
    predictions |= {"cpu": 1.9, "aten": 2.0}
    listed = candidates(PROBLEM, OPERATION, DEVICE)
    assert [candidate.backend for candidate in listed if candidate.chosen] == ["aten"]
    assert listed[0].chosen
    assert listed[0].reason == ""
    reasons = {(c.backend, c.config): c.reason for c in listed[1:]}
    assert reasons["cuda", None] == "no GPU; buy one"
    assert reasons["cpu", BIG] == "too big"
    assert "margin" in reasons["cpu", SMALL]
    assert all(reasons.values())


def test_candidates_show_what_was_measured(install: Install, predictions: dict[str, float]) -> None:
    install(Backend("cpu", configs=[BIG, SMALL]), Backend("aten"), Backend("reference"))
    trials = (
        Trial("cpu", asdict(SMALL), 1e-6),
        Trial("aten", asdict(Config()), 3e-6),
        Trial("cpu", asdict(BIG), None, "y is wrong"),
    )
    user_store().put(stored(config=SMALL, trials=trials))
    listed = {(c.backend, c.config): c for c in candidates(PROBLEM, OPERATION, DEVICE)}
    assert listed["cpu", SMALL].chosen
    assert listed["aten", Config()].measured_seconds == 3e-6
    assert "3.00x" in listed["aten", Config()].reason
    assert listed["cpu", BIG].reason == "y is wrong"


def test_a_given_store_is_used_instead_of_the_users(install: Install, tmp_path: Path) -> None:
    install(Backend("cpu"), Backend("aten"))
    store = Store(tmp_path / "mine.sqlite3")
    store.put(stored(config=SMALL))
    assert select(PROBLEM, OPERATION, DEVICE, store=store).config == SMALL
    assert select(PROBLEM, OPERATION, DEVICE).source == "cost model"


@pytest.mark.parametrize(
    "damage",
    ["", "[]", "null", '{"format": 1}', '{"format": 9, "device": "DEVICE", "rows": []}', "[" * 100_000,
     '{"format": 1, "device": "DEVICE", "rows": {}}'],
)  # fmt: skip
def test_a_bad_shipped_table_is_ignored(
    install: Install, table: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    install(Backend("cpu"), Backend("aten"))
    table.write_text(damage.replace("DEVICE", device_key(DEVICE)))
    for _ in range(3):
        assert select(PROBLEM, OPERATION, DEVICE).source == "cost model"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "bad", [{"config": {"a": {"b": 1}}}, {"config": None}, {"m": "16"}, {"backend": "x"}, None]
)
def test_a_bad_shipped_row_is_ignored_alone(
    install: Install, table: Path, bad: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    install(Backend("cpu"), Backend("aten"))
    ship(table, stored(Problem(m=64)), stored(Problem(m=256)))
    content = json.loads(table.read_text())
    content["rows"][1] = None if bad is None else content["rows"][1] | bad
    table.write_text(json.dumps(content))
    shipped.table.cache_clear()
    assert select(Problem(m=64), OPERATION, DEVICE).source == "shipped"
    assert list(shipped.table(device_key(DEVICE))[OPERATION, PROBLEM.family()]) == [(64, 1)]
    assert len(caplog.records) == 1


def test_a_shipped_table_reads_back_what_was_written(table: Path) -> None:
    rows = [stored(Problem(m=64)), stored(Problem(m=256), config=BIG)]
    other = replace(rows[0], device="another")
    ship(table, *rows, other)
    found = shipped.table(device_key(DEVICE))[OPERATION, PROBLEM.family()]
    assert [found[64, 1], found[256, 1]] == rows
