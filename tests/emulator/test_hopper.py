"""mbarriers, TMA, wgmma and clusters: right, quiet where the kernel is right, and loud about each seeded bug."""

from __future__ import annotations

import pytest

from .support import COMPLETIONS, Emulator

# By case and mutation: the kinds of error of which one at least must be reported.
SEEDED: dict[str, dict[str, set[str]]] = {
    "hopper_gemm": {
        # the ring of stages
        "early_release": {"race"},
        "release_too_soon": {"race"},
        "few_arrivals": {"race"},
        "many_arrivals": {"deadlock"},
        "few_bytes": {"barrier"},
        "many_bytes": {"deadlock"},
        "consumer_parity": {"race", "uninitialised"},
        "producer_parity": {"deadlock"},
        "no_flip": {"barrier"},
        "stage_reuse": {"barrier", "race"},
        "no_full_wait": {"race", "uninitialised"},
        "load_after_arrival": {"deadlock"},
        # the barriers' initialisation
        "no_init_fence": {"asynchronous"},
        "no_init_sync": {"barrier", "race"},
        "init_twice": {"barrier"},
        # wgmma
        "no_fence": {"asynchronous"},
        "no_fence_again": {"asynchronous"},
        "no_wait": {"asynchronous"},
        "wait_too_few": {"asynchronous"},
        "no_commit": {"asynchronous"},
        "write_after_fence": {"asynchronous"},
        "write_in_flight": {"asynchronous"},
        "read_in_flight": {"asynchronous"},
        "exit_in_flight": {"asynchronous"},
        "too_many_registers": {"launch"},
        "warp_stays_away": {"divergence"},
        "other_descriptor": {"divergence"},
        "divergent_wgmma": {"divergence"},
        "stride": {"race", "uninitialised"},
        "short_stride": {"asynchronous"},
        "k_advance": {"asynchronous"},
        # the epilogue's stores
        "no_proxy_fence": {"asynchronous"},
        "one_lane_fences": {"asynchronous"},
        "fence_after_barrier": {"asynchronous"},
        "no_store_barrier": {"race"},
        "no_wait_read": {"race"},
        "no_refill_barrier": {"race"},
        "no_store_commit": {"asynchronous"},
        "no_last_wait": {"asynchronous"},
        # addresses
        "misaligned_tile": {"misaligned"},
        "outside_shared": {"out of bounds"},
    },
    "hopper_gemm_mn_major": {
        "stride": {"race", "uninitialised"},
        "short_stride": {"asynchronous"},
    },
    "hopper_gemm_cluster": {
        "narrow_mask": {"deadlock"},
        "wide_mask": {"asynchronous"},
        "local_release": {"deadlock"},
        "no_cluster_init_sync": {"race", "barrier"},
        "no_cluster_exit_sync": {"asynchronous"},
        "wrong_rank": {"barrier"},
    },
    "hopper_barrier": {
        "no_wait": {"race", "uninitialised"},
        "no_empty_wait": {"race"},
        "arrives_early": {"race"},
        "waits_again": {"barrier"},
        "bad_parity": {"barrier"},
        "zero_count": {"barrier"},
        "unaligned": {"misaligned"},
        "uninitialised": {"barrier"},
        "in_global_memory": {"out of bounds"},
        "overwritten": {"barrier"},
        "overflow": {"barrier"},
        "goes_by": {"barrier"},
        "left_bytes": {"barrier"},
        "arrives_twice": {"barrier"},
        "waits_alone": {"barrier"},
    },
    "hopper_barrier_tries": {
        "no_wait": {"race", "uninitialised"},
        "no_empty_wait": {"race"},
        "arrives_early": {"race"},
    },
    "hopper_tma_tiled": {
        "few_bytes": {"barrier"},
        "many_bytes": {"deadlock"},
        "no_wait": {"race"},
        "no_expectation": {"race"},
        "other_rank": {"asynchronous"},
        "other_kind": {"asynchronous"},
        "not_a_map": {"asynchronous"},
        "no_barrier": {"barrier"},
        "misaligned": {"misaligned"},
        "left_in_flight": {"asynchronous"},
    },
    "hopper_tma_im2col": {
        "few_bytes": {"barrier"},
        "many_bytes": {"deadlock"},
        "no_wait": {"race"},
        "no_expectation": {"race"},
        "other_rank": {"asynchronous"},
    },
    "hopper_tma_im2col_start": {"off_the_grid": {"asynchronous"}},
    "hopper_tma_store": {
        "no_proxy_fence": {"asynchronous"},
        "no_read_wait": {"race"},
        "no_commit": {"asynchronous"},
        "no_end_wait": {"asynchronous"},
        "read_back": {"race"},
        "ragged_store": {"asynchronous"},
    },
    "hopper_wgmma": {
        "no_proxy_fence": {"asynchronous"},
        "no_sync": {"race"},
        "fence_too_early": {"asynchronous"},
        "overwrite": {"race"},
        "two_from_one": {"divergence"},
    },
}
# Reads the tile in another order, all of it written and waited for: nothing but the values tells.
WRONG = {"hopper_gemm_mn_major": {"leading"}}

CLEAN = [
    *SEEDED,
    "hopper_gemm_a_mn_major",
    "hopper_gemm_b_mn_major",
    "hopper_gemm_cluster_ragged",
    "hopper_gemm_half",
    "hopper_gemm_ragged",
    "hopper_gemm_two_clusters",
]
# Without threads that could run in another order, or with too few to matter: once is enough.
ONCE = [
    "hopper_descriptors",
    "hopper_im2col_maps",
    "hopper_swizzles",
    "hopper_tiled_maps",
    "hopper_wgmma_layouts",
]


@pytest.mark.parametrize("completion", COMPLETIONS)
@pytest.mark.parametrize("case", CLEAN)
def test_right_and_clean_in_every_order(emulator: Emulator, case: str, completion: str) -> None:
    outcome = emulator.run(case, completion=completion, seeds=50)
    assert outcome.right
    assert outcome.errors == {}, outcome.reports
    assert outcome.counters["slot_overflows"] == 0


@pytest.mark.parametrize("case", ONCE)
def test_right(emulator: Emulator, case: str) -> None:
    outcome = emulator.run(case)
    assert outcome.right
    assert outcome.errors == {}, outcome.reports


@pytest.mark.parametrize(
    ("case", "mutation"), [(case, mutation) for case, mutations in SEEDED.items() for mutation in mutations]
)
def test_a_seeded_bug_is_reported(emulator: Emulator, case: str, mutation: str) -> None:
    expected = SEEDED[case][mutation]
    for completion in COMPLETIONS:
        for seed in (0, 1):
            outcome = emulator.run(case, mutation=mutation, seed=seed, completion=completion)
            assert expected & outcome.errors.keys(), (completion, seed, outcome.errors)
            assert any(report["kind"] in expected for report in outcome.reports)


@pytest.mark.parametrize(
    ("case", "mutation"), [(case, mutation) for case, mutations in WRONG.items() for mutation in mutations]
)
def test_a_seeded_bug_shows_in_the_values(emulator: Emulator, case: str, mutation: str) -> None:
    assert not emulator.run(case, mutation=mutation).right


def test_every_case_and_mutation_is_expected(emulator: Emulator) -> None:
    found = {
        case: set(mutations) for case, mutations in emulator.cases().items() if case.startswith("hopper_")
    }
    expected = {case: SEEDED.get(case, {}).keys() | WRONG.get(case, set()) for case in [*CLEAN, *ONCE]}
    assert found == expected


def test_a_report_says_what_is_missing(emulator: Emulator) -> None:
    """What a reader of the report needs: the operation, the other party, the remedy, the line."""
    (report,) = emulator.run("hopper_gemm", mutation="no_proxy_fence").reports
    assert "a TMA store reads shared memory that thread" in report["text"]
    assert "fence_async_proxy is missing" in report["text"]
    assert "hopper_gemm.cu:" in report["where"]
    assert "gemm" in report["kernel"]
    (report,) = emulator.run("hopper_gemm", mutation="many_bytes").reports
    assert "mbarrier_wait (shared offset, parity)" in report["text"]
    race = emulator.run("hopper_gemm", mutation="early_release").reports[0]
    assert {"a TMA load", "wgmma of warp"} <= {
        word for word in ("a TMA load", "wgmma of warp", "a TMA store") if word in race["text"]
    }
