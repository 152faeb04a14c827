"""What stands for an entrant's samples when entrants are ranked."""

from __future__ import annotations

from tilewright.tuner.timing import Entrant


def _typical(samples: list[float]) -> float:
    return Entrant("cpu", None, lambda: None, samples=samples).typical


def test_few_samples_are_ranked_by_what_nothing_disturbed() -> None:
    assert _typical([1.0, 1.0, 3.0, 3.0, 3.0]) == 1.0


def test_many_samples_are_ranked_by_what_is_usual() -> None:
    often_slow = [0.9] * 9 + [1.2] * 15
    assert _typical(often_slow) == 1.2
    assert _typical([1.0] * 24) < _typical(often_slow)


def test_nothing_measured_ranks_last() -> None:
    assert _typical([]) == float("inf")
