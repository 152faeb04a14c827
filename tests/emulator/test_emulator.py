"""The emulator computes what a GPU would, and says where a kernel goes wrong."""

from __future__ import annotations

import re

import pytest

from .support import COMPLETIONS, Emulator

CASES = [
    "barriers_by_name",
    "copies",
    "copy_of_nothing",
    "device_functions",
    "ended_threads",
    "fragments_bf16",
    "fragments_f16",
    "fragments_tf32",
    "grid",
    "memory",
    "pipeline",
    "read_by_all",
    "refused_launches",
    "shuffles",
    "stmatrix",
    "sync_threads",
    "trap",
    "warp",
]


@pytest.mark.parametrize("completion", COMPLETIONS)
@pytest.mark.parametrize("case", CASES)
def test_right_and_clean_in_every_order(emulator: Emulator, case: str, completion: str) -> None:
    outcome = emulator.run(case, completion=completion, seeds=50)
    assert outcome.right
    assert outcome.errors == {}, outcome.reports
    assert outcome.counters["slot_overflows"] == 0


def test_a_seed_is_a_run(emulator: Emulator) -> None:
    """The same seed gives the same reports, another seed other ones: a find can be repeated."""
    first, again, other = (
        emulator.run("pipeline", mutation="no_barrier", seed=seed, completion="random") for seed in (5, 5, 6)
    )
    assert first == again
    assert first.reports != other.reports


def test_a_race_names_both_accesses(emulator: Emulator) -> None:
    outcome = emulator.run("warp", mutation="no_second_sync_warp")
    report = next(report for report in outcome.reports if report["kind"] == "race")
    assert "sum_64" in report["kernel"]
    assert report["block"] == [0, 0, 0]
    assert re.search(r"read of 4 bytes by thread \d+ at (warp\.cu:\d+|\S+)", report["text"])
    assert re.search(r"write by thread \d+ at (warp\.cu:\d+|\S+)", report["text"])


def test_a_deadlock_names_who_waits_where(emulator: Emulator) -> None:
    (report,) = emulator.run("barriers_by_name", mutation="wrong_barrier").reports
    assert "warp 0 lanes 0-31: barrier_sync (3, 96)" in report["text"]
    assert "warp 2 lanes 0-31: barrier_sync (7, 96)" in report["text"]


def test_bank_conflicts_are_counted(emulator: Emulator) -> None:
    good = emulator.run("pipeline", bank_conflicts=True)
    assert good.counters["ldmatrix_conflicts"] == good.counters["copy_conflicts"] == 0
    plain = emulator.run("pipeline", mutation="no_swizzle", bank_conflicts=True)
    assert plain.right
    # Rows of 64 bytes: of the 8 rows of a matrix, 4 begin in the same bank, which takes 3 passes too many. By
    # 72 x 80 x 168 there are 2 x 2 blocks, 6 steps, 4 warps, 2 parts of a step, 4 times 4 matrices in each.
    assert plain.counters["ldmatrix_conflicts"] == (2 * 2) * 6 * 4 * 2 * (4 * 4) * 3
    assert emulator.run("pipeline", mutation="no_swizzle").counters["ldmatrix_conflicts"] == 0


def test_without_checks_it_only_computes(emulator: Emulator) -> None:
    assert emulator.run("pipeline", checks=False).right
    careless = emulator.run("warp", mutation="no_second_sync_warp", checks=False)
    assert careless.errors == {}
