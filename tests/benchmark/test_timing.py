"""The race: what counts, what is thrown away, what is left out."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tilewright.benchmark import timing
from tilewright.benchmark.timing import Contender, Timing, WallClock, geomean, quantile, race


class FakeClock:
    """Runs the stretch and reports times that the test chose, so that no test depends on the machine's speed."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now

    def time(self, stretch: Callable[[], None]) -> float:
        before = self.now()
        stretch()
        return self.now() - before


class Machine:
    """A clock that advances only when a contender works."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.ran: list[str] = []

    def contender(self, name: str, cost: float) -> Contender:
        def run(index: int) -> None:
            self.seconds += cost
            self.ran.append(name)

        return Contender(name, run)

    def clock(self) -> FakeClock:
        return FakeClock(lambda: self.seconds)


def test_times_are_per_call_and_medians() -> None:
    machine = Machine()
    outcome = race(
        [machine.contender("slow", 3e-3), machine.contender("fast", 1e-5)],
        clock=machine.clock(),
        probe=lambda: 1.0,
        rounds=(5, 5),
    )
    assert outcome.rounds == 5
    assert outcome.steady
    assert outcome.timings["slow"].p50 == pytest.approx(3e-3)
    # Many short calls share one stretch; the time is still that of one.
    assert outcome.timings["fast"].p50 == pytest.approx(1e-5)
    assert machine.ran.count("fast") > 100


def test_each_contender_starts_rested_and_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: machine.ran.append(f"rested {seconds}"))
    outcome = race(
        [machine.contender("one", 1e-3), machine.contender("other", 2e-3)],
        clock=machine.clock(),
        probe=lambda: 1.0,
        rounds=(5, 5),
        rest_s=0.02,
    )
    assert outcome.timings["one"].p50 == pytest.approx(1e-3)
    last = machine.ran[-6:]
    assert last[:3] in (["rested 0.02", "one", "one"], ["rested 0.02", "other", "other"])
    assert last[3] == "rested 0.02"
    assert len(set(last)) == 3


def test_rounds_in_which_the_pace_fell_are_repeated() -> None:
    machine = Machine()
    paces = iter([1.0] * 3 + [1.0, 0.5] + [1.0] * 100)
    outcome = race(
        [machine.contender("one", 1e-3)],
        clock=machine.clock(),
        probe=lambda: next(paces),
        rounds=(5, 5),
    )
    assert (outcome.rounds, outcome.repeated, outcome.steady) == (5, 1, True)
    assert outcome.timings["one"].samples == 5


def test_a_machine_that_stays_slow_is_reported_not_waited_for() -> None:
    machine = Machine()
    paces = iter([1.0] * 3 + [0.1] * 1000)
    outcome = race(
        [machine.contender("one", 1e-3)],
        clock=machine.clock(),
        probe=lambda: next(paces),
        rounds=(3, 3),
    )
    assert outcome.rounds == 3
    assert outcome.repeated == 6
    assert not outcome.steady


def test_order_changes_from_round_to_round() -> None:
    machine = Machine()
    names = "abcd"
    race(
        [machine.contender(name, 1e-2) for name in names],
        clock=machine.clock(),
        probe=lambda: 1.0,
        rounds=(12, 12),
    )
    ran = machine.ran[-48:]
    rounds = {tuple(ran[i : i + 4]) for i in range(0, 48, 4)}
    assert len(rounds) > 3
    followers = {(one, other) for one, other in itertools.pairwise(ran) if one == "a"}
    assert len(followers) > 1, "the same contender would always run in the wake of the same other one"


def test_a_contender_that_raises_is_left_out() -> None:
    machine = Machine()

    def fail(index: int) -> None:
        raise ValueError("no kernel\nfor this")

    outcome = race(
        [machine.contender("works", 1e-3), Contender("fails", fail)],
        clock=machine.clock(),
        probe=lambda: 1.0,
        rounds=(2, 2),
    )
    assert set(outcome.timings) == {"works"}
    assert outcome.failures == {"fails": "ValueError: no kernel"}


def test_a_contender_that_crawls_is_timed_three_times() -> None:
    machine = Machine()
    outcome = race(
        [machine.contender("fast", 1e-3), machine.contender("crawls", 1.0)],
        clock=machine.clock(),
        probe=lambda: 1.0,
        rounds=(8, 8),
    )
    assert outcome.timings["fast"].samples == 8
    assert outcome.timings["crawls"].samples == 3


def test_buffers_rotate_and_scopes_enclose_stretches() -> None:
    seen: list[int] = []
    entered = 0

    @contextmanager
    def scope() -> Iterator[None]:
        nonlocal entered
        entered += 1
        yield

    def run(index: int) -> None:
        assert entered > 0
        seen.append(index)
        time.sleep(1e-4)

    race(
        [Contender("one", run, scope)],
        clock=WallClock(),
        probe=lambda: 1.0,
        sets=3,
        rounds=(3, 3),
        budget_s=0,
    )
    assert set(seen) == {0, 1, 2}
    assert entered < len(seen), "a scope around every call would be timed with it"


def test_calls_per_run_divide_the_time() -> None:
    machine = Machine()
    plain = machine.contender("graph", 8e-3)
    outcome = race(
        [Contender("graph", plain.run, calls_per_run=8)],
        clock=machine.clock(),
        probe=lambda: 1.0,
        rounds=(2, 2),
    )
    assert outcome.timings["graph"].p50 == pytest.approx(1e-3)


def test_quantiles_and_means() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([7.0], 0.2) == 7.0
    assert quantile([0.0, 10.0], 0.8) == 8.0
    assert geomean([1.0, 4.0]) == pytest.approx(2.0)
    assert Timing.of([1.0, 2.0, 3.0]) == Timing(2.0, 1.4, 2.6, 3)


def test_freed_memory_can_be_kept_with_the_process() -> None:
    # In a process of its own: it holds until the process ends.
    code = """
import resource, torch
from tilewright.benchmark import allocator
assert allocator.allocator() == "the C library's default"
if not allocator.keep_freed_memory():
    print("left alone")
    raise SystemExit
assert allocator.allocator() == "freed memory kept by the process"
torch.set_num_threads(1)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(1 << 24)
before = faults()
for _ in range(10):
    torch.ones(1 << 24)
print(faults() - before)
"""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    if done.stdout.strip() == "left alone":
        pytest.skip("the C library is not glibc")
    # Mapped anew, 64 MiB would fault 16384 pages (32 huge ones) each time.
    assert int(done.stdout) < 100
