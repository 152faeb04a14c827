"""Each bug built into a test kernel is noticed, whatever the order of warps and the arrival of copies."""

from __future__ import annotations

import pytest

from .support import COMPLETIONS, Emulator

# By case and mutation: the kinds of error of which one at least must be reported.
SEEDED: dict[str, dict[str, set[str]]] = {
    "pipeline": {
        "wait_off_by_one": {"race"},
        "no_barrier": {"race"},
        "load_before_barrier": {"race"},
        "load_too_far": {"race"},
        "commit_only_loads": {"race"},
        "commit_first": {"race"},
        "no_row_guard": {"out of bounds"},
        "no_depth_guard": {"out of bounds"},
        "no_store_guard": {"out of bounds"},
        "no_drain": {"race"},
        "no_staging_barrier": {"race"},
        "stage_stride": {"race"},
        "memory_too_small": {"out of bounds"},
        "unaligned_rows": {"misaligned"},
        "load_matrix_aligned": {"misaligned"},
        "overlapping_blocks": {"race"},
        "split_without_sum": {"race"},
    },
    "warp": {
        "divergent_shuffle": {"divergence"},
        "other_distance": {"divergence"},
        "mask_without_caller": {"divergence"},
        "mask_too_wide": {"divergence"},
        "no_sync_warp": {"race"},
        "no_second_sync_warp": {"race"},
        "ended_lane": {"divergence"},
        "mixed_operations": {"divergence"},
        "elected_twice": {"race"},
    },
    "barriers_by_name": {
        "no_full_barrier": {"race", "uninitialised"},
        "no_empty_barrier": {"race", "barrier"},
        "other_count": {"barrier"},
        "wrong_barrier": {"deadlock"},
        "no_arrival": {"deadlock"},
        "half_warp": {"barrier", "deadlock"},
        "uneven_count": {"barrier"},
        "barrier_beyond": {"barrier"},
        "one_buffer": {"race"},
    },
    "sync_threads": {
        "no_barrier": {"race"},
        "divergent": {"race"},
        "no_second_barrier": {"race"},
        "skips_last": {"deadlock"},
        "barrier_zero": {"barrier"},
    },
    "copies": {
        "no_wait": {"race"},
        "wait_one_open": {"race"},
        "no_commit": {"race"},
        "read_before_wait": {"race"},
        "write_under_copy": {"race"},
        "two_copies": {"race"},
        "misaligned_global": {"misaligned"},
        "misaligned_shared": {"misaligned"},
        "too_many_valid": {"asynchronous"},
        "beyond_global": {"out of bounds"},
        "beyond_shared": {"out of bounds"},
        "never_waited": {"asynchronous"},
    },
    "memory": {
        "read_beyond": {"out of bounds"},
        "read_before": {"out of bounds"},
        "write_beyond": {"out of bounds"},
        "write_input": {"out of bounds"},
        "null_pointer": {"out of bounds"},
        "stray_pointer": {"out of bounds"},
        "shared_beyond": {"out of bounds"},
        "shared_before": {"out of bounds"},
        "shared_unwritten": {"uninitialised"},
        "output_unwritten": {"uninitialised"},
        "misaligned_vector": {"misaligned"},
        "misaligned_scalar": {"misaligned"},
        "register_index": {"out of bounds"},
        "index_overflow": {"undefined"},
        "copy_beyond": {"out of bounds"},
        "half_written": {"uninitialised"},
        "neighbour_bf16": {"race"},
    },
    "grid": {
        "same_place": {"race"},
        "reads_other": {"race"},
        "plain_and_atomic": {"race"},
        "same_word": {"race"},
        "spins": {"deadlock"},
    },
    "read_by_all": {"one_warp_left_out": {"race"}},
    "trap": {"traps": {"launch"}},
}
# Right, only slow: counted as bank conflicts.
COUNTED = {"pipeline": {"no_swizzle"}}


@pytest.mark.parametrize(
    ("case", "mutation"), [(case, mutation) for case, mutations in SEEDED.items() for mutation in mutations]
)
def test_a_seeded_bug_is_reported(emulator: Emulator, case: str, mutation: str) -> None:
    expected = SEEDED[case][mutation]
    for completion in COMPLETIONS:
        for seed in (0, 1, 2):
            outcome = emulator.run(case, mutation=mutation, seed=seed, completion=completion)
            assert expected & outcome.errors.keys(), (completion, seed, outcome.errors)
            assert any(report["kind"] in expected for report in outcome.reports)


@pytest.mark.parametrize("case", sorted(SEEDED))
def test_every_mutation_is_expected_to_be_noticed(emulator: Emulator, case: str) -> None:
    assert set(emulator.cases()[case]) == SEEDED[case].keys() | COUNTED.get(case, set())
