from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tuner.conftest import Install
from tests.tuner.fakes import (
    DEVICE,
    OPERATION,
    Backend,
    Body,
    Config,
    Problem,
    make_inputs,
    oracle,
    right,
    taking,
)
from tilewright.errors import TuningError
from tilewright.kernels.interface import BACKEND_NAMES, Launch
from tilewright.tuner import cost_model
from tilewright.tuner.proof import Poison, prove
from tilewright.tuner.search import TuneResult, _race, _Search, pick, search
from tilewright.tuner.select import select
from tilewright.tuner.store import Store
from tilewright.tuner.timing import Clock, Entrant, Rounds, rotating_sets
from tilewright.tuner.tune import make_result_row

PROBLEM = Problem()


def steady() -> float:
    return 1.0


def run(budget_s: float = 20.0, problem: Problem = PROBLEM, **arguments: Any) -> TuneResult:
    return search(
        problem,
        OPERATION,
        DEVICE,
        make_inputs(problem),
        oracle,
        budget_s=budget_s,
        anchor=steady,
        **arguments,
    )


def reason(result: TuneResult, backend: str, **fields: Any) -> str:
    (found,) = [t for t in result.trials if t.backend == backend and fields.items() <= t.config.items()]
    assert found.seconds is None
    return found.reason


# Kernels that are wrong, each in its own way


def off_by_one(config: Config, problem: Problem) -> Launch:
    return lambda x: x * 2 + 1


def forgetful(config: Config, problem: Problem) -> Launch:
    """Writes all but the last element."""

    def launch(x: Tensor) -> Tensor:
        out = torch.empty(x.shape)
        out[:, :-1] = 2 * x[:, :-1]
        return out

    return launch


def hoarding(config: Config, problem: Problem) -> Launch:
    """Returns memory that it keeps, in which only the first call ever writes the last element."""

    def launch(x: Tensor) -> Tensor:
        if not _HOARD:
            _HOARD.append(x * 2)
        out = _HOARD[0]
        out[:, :-1] = 2 * x[:, :-1]
        return out

    return launch


_HOARD: list[Tensor] = []


def in_place(config: Config, problem: Problem) -> Launch:
    return lambda x: x.mul_(2)


def overwriting(config: Config, problem: Problem) -> Launch:
    def launch(x: Tensor) -> Tensor:
        out = torch.empty(x.shape).copy_(x).mul_(2)
        x[0, 0] = 7
        return out

    return launch


def aliasing(config: Config, problem: Problem) -> Launch:
    """Right in value for an input of zeros only, and returns the input's own memory."""
    return lambda x: x.view(x.shape)


def raising(config: Config, problem: Problem) -> Launch:
    def launch(x: Tensor) -> Tensor:
        raise RuntimeError("out of shared memory")

    return launch


def failing_to_bind(config: Config, problem: Problem) -> Launch:
    raise RuntimeError("does not compile")


WRONG: dict[str, tuple[Body, str]] = {
    "off by one": (off_by_one, "y is wrong"),
    "unwritten elements": (forgetful, "y is wrong"),
    "memory of its own": (hoarding, "y is wrong"),
    "in place": (in_place, "input 0"),
    "writes to its input": (overwriting, "input 0"),
    "raises": (raising, "raised RuntimeError: out of shared memory"),
    "does not bind": (failing_to_bind, "raised RuntimeError: does not compile"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_never_wins_however_fast(install: Install, name: str) -> None:
    body, complaint = WRONG[name]
    _HOARD.clear()
    install(Backend("cpu", body), Backend("aten", taking(2e-4)), Backend("reference"))
    result = run()
    assert (result.backend, result.speedup) == ("aten", 1.0)
    assert complaint in reason(result, "cpu")


def test_the_fastest_right_kernel_wins(install: Install) -> None:
    def body(config: Config, problem: Problem) -> Launch:
        if config.algorithm == "wrong":
            return off_by_one(config, problem)
        return taking({8: 8e-4, 16: 1e-4, 32: 4e-4}[config.block_m])(config, problem)

    configs = [Config("wrong", 1), Config("one", 8), Config("one", 16), Config("one", 32)]
    install(Backend("cpu", body, configs), Backend("aten", taking(8e-4)))
    result = run()
    assert (result.backend, result.config) == ("cpu", Config("one", 16))
    assert result.speedup is not None
    assert result.speedup > 2
    assert len(result.trials) == 5
    assert sum(trial.seconds is not None for trial in result.trials) == 4
    assert result.steady


def test_rejected_configs_are_recorded_and_never_bound(install: Install) -> None:
    def no_eight(config: Config, problem: Problem) -> str | None:
        return "eight is not allowed" if config.block_m == 8 else None

    def body(config: Config, problem: Problem) -> Launch:
        assert config.block_m != 8
        return right(config, problem)

    install(
        Backend("cpu", body, [Config("one", 8), Config("one", 4)], no_eight), Backend("aten", taking(1e-4))
    )
    assert reason(run(), "cpu", block_m=8) == "rejected: eight is not allowed"


def test_only_the_best_few_by_prediction_are_tried(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [Config("one", size) for size in range(1, 11)]
    install(Backend("cpu", taking(1e-4), configs), Backend("aten", taking(2e-4), configs))
    monkeypatch.setattr(
        cost_model,
        "expected_seconds",
        lambda operation, backend, config, problem, device: 1.0 / config.block_m,
    )
    result = run(top_k=2)
    assert sorted(t.config["block_m"] for t in result.trials if t.backend == "cpu") == [9, 10]
    assert sum(t.backend == "aten" for t in result.trials) == 10


def test_what_crawls_is_called_no_more_than_needed(install: Install) -> None:
    calls = []

    def body(config: Config, problem: Problem) -> Launch:
        def launch(x: Tensor) -> Tensor:
            calls.append(1)
            time.sleep(0.4)
            return right(config, problem)(x)  # type: ignore[no-any-return]

        return launch

    install(Backend("cpu", body), Backend("aten"))
    result = run()
    assert "crawled" in reason(result, "cpu")
    assert len(calls) == 3  # the proof, the warm-up, the first timed call


def test_the_oracle_is_no_contender(install: Install) -> None:
    install(Backend("aten", taking(1e-3)), Backend("reference"))
    assert {trial.backend for trial in run().trials} == {"aten"}
    install(Backend("reference"))
    assert run().backend == "reference"


def test_without_survivors_the_search_says_why(install: Install) -> None:
    install(Backend("cpu", off_by_one), Backend("aten", raising))
    with pytest.raises(TuningError, match="y is wrong"):
        run()


def test_a_spent_budget_still_tries_every_backend(install: Install) -> None:
    configs = [Config("one", size) for size in range(1, 9)]
    install(Backend("cpu", taking(1e-4), configs), Backend("aten", taking(2e-4), configs[:2]))
    result = run(budget_s=1e-9)
    assert {t.backend for t in result.trials if t.seconds is not None} == {"cpu", "aten"}
    assert sum("budget" in trial.reason for trial in result.trials) == 8


def entrant(backend: str, config: Config, *samples: float) -> Entrant:
    return Entrant(backend, config, lambda: None, samples=list(samples))


def test_ties_fall_to_a_fixed_order_whatever_came_first() -> None:
    field = [
        entrant("aten", Config("a", 1), 1.000),
        entrant("cpu", Config("b", 2), 1.010),
        entrant("cpu", Config("b", 1), 1.019),
        entrant("triton", Config("z", 1), 1.021),
    ]
    for turn in range(len(field)):
        assert pick(field[turn:] + field[:turn]) is field[2]
    assert BACKEND_NAMES.index("cpu") < BACKEND_NAMES.index("aten")


def test_the_slower_half_drops_out_but_the_vendor_stays(install: Install) -> None:
    class FakeClock(Clock):
        def __init__(self) -> None:
            super().__init__(DEVICE, [[]])

        def sample(self, one: Entrant) -> float:
            return float(one.config.block_m)

    field = [entrant("cpu", Config("one", size)) for size in range(1, 17)] + [
        entrant("aten", Config("one", 99))
    ]
    state = _Search(PROBLEM, OPERATION, DEVICE, tuple, oracle, lambda *_: None, time.monotonic() + 60)
    finalists = _race(state, field, Rounds(FakeClock(), steady, lambda: False))
    assert [(e.backend, e.config.block_m) for e in finalists] == [("cpu", 1), ("cpu", 2), ("aten", 99)]
    counts = [len(e.samples) for e in field]
    assert counts[0] == counts[16] == max(counts)
    assert counts[15] == min(counts) < counts[0]


def test_rounds_in_which_the_probe_fell_are_repeated_within_bounds() -> None:
    rates = iter([1.0, 1.0, 1.0, 0.5, 1.0, 1.0])
    times = iter([1.0, 9.0, 2.0])

    class FakeClock(Clock):
        def sample(self, one: Entrant) -> float:
            return next(times)

    one = entrant("cpu", Config())
    rounds = Rounds(FakeClock(DEVICE, [[]]), lambda: next(rates), lambda: False)
    rounds.run([one])
    rounds.run([one])
    assert one.samples == [1.0, 2.0]  # the 9 was measured beside a probe of one half
    assert rounds.unsteady == 0

    falling = iter(0.5**i for i in range(1000))
    probes = []

    def anchor() -> float:
        probes.append(1)
        return next(falling)

    class One(Clock):
        def sample(self, one: Entrant) -> float:
            return 1.0

    rounds = Rounds(One(DEVICE, [[]]), anchor, lambda: False)
    for _ in range(5):
        rounds.run([one])
    assert rounds.unsteady == 5
    assert len(probes) < 50


def test_rotating_sets_pass_the_cache_and_keep_the_geometry() -> None:
    inputs = (torch.randn(64, 200)[:, ::2], torch.randn(64, 200).mT, None, torch.randn(5)[1:])
    sets = rotating_sets(inputs, DEVICE)
    nbytes = sum(x.untyped_storage().nbytes() for x in inputs if x is not None)
    assert len(sets) * nbytes >= 2 * DEVICE.llc_bytes
    addresses = set()
    for copies in sets:
        for copy, original in zip(copies, inputs, strict=True):
            if original is None:
                assert copy is None
                continue
            assert torch.equal(copy, original)
            assert copy.stride() == original.stride()
            assert copy.data_ptr() % 16 == original.data_ptr() % 16
            addresses.add(copy.data_ptr())
    assert len(addresses) == 3 * len(sets)


def test_poison_reaches_every_uninitialized_allocation() -> None:
    with Poison() as poison:
        like = torch.zeros(3)
        made = [
            torch.empty(3),
            torch.empty_like(like),
            torch.empty_strided((2, 2), (1, 2)),
            like.new_empty(3),
            torch.empty(3, dtype=torch.bfloat16),
        ]
        integers = torch.empty(3, dtype=torch.int32)
    assert all(bool(tensor.isnan().all()) for tensor in made)
    assert bool((integers == torch.iinfo(torch.int32).max).all())
    assert not bool(like.isnan().any())
    assert all(poison.poisoned(tensor[:1]) for tensor in [*made, integers])
    assert not poison.poisoned(torch.empty(3))


def test_a_kernel_with_memory_of_its_own_is_proved_on_two_inputs() -> None:
    seen: list[Tensor] = []
    pool = torch.empty(4)

    def launch(x: Tensor) -> Tensor:
        seen.append(x)
        return pool.copy_(x).mul_(2)

    assert prove(lambda: launch, lambda: (torch.randn(4),), oracle) is None
    assert len(seen) == 2
    assert not torch.equal(seen[0], seen[1])


def test_a_returned_input_is_noticed() -> None:
    launch = aliasing(Config(), PROBLEM)
    complaint = prove(lambda: launch, lambda: (torch.zeros(1, 4),), oracle)
    assert complaint == "returned memory that is not its own"


def test_threads_are_those_of_the_problem_and_are_put_back(install: Install) -> None:
    class Threaded(Problem):
        threads = 1

    seen = set()

    def body(config: Config, problem: Problem) -> Launch:
        def launch(x: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return x * 2

        return launch

    install(Backend("aten", body))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(problem=Threaded())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_what_was_found_is_selected_from_then_on(install: Install, tmp_path: Path) -> None:
    install(Backend("cpu", taking(1e-4), [Config("one", 4), Config("one", 8)]), Backend("aten", taking(6e-4)))
    path = tmp_path / "store.sqlite3"
    result = run()
    assert Store(path).put(make_result_row(result, DEVICE))
    choice = select(PROBLEM, OPERATION, DEVICE, store=Store(path))
    assert (choice.source, choice.backend, choice.config) == ("store", "cpu", result.config)
    assert choice.expected_seconds == result.seconds
    assert "stale" not in choice.detail


def test_results_lie_in_other_memory_until_the_cache_is_full() -> None:
    clock = Clock(DEVICE, [[]])
    size = DEVICE.llc_bytes // 4
    entrant = Entrant("cpu", None, lambda: torch.empty(size, dtype=torch.uint8))
    clock.first_call(entrant)
    addresses = []

    def launch() -> torch.Tensor:
        y = torch.empty(size, dtype=torch.uint8)
        addresses.append(y.data_ptr())
        return y

    clock.seconds(Entrant("cpu", None, launch), 4)
    assert len(set(addresses)) == 4
