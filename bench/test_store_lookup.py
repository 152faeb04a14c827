"""A stored choice is found in at most 2 µs: the look-up that a first call with a new shape makes.

pytest bench/test_store_lookup.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tilewright.tuner.rows import Row
from tilewright.tuner.store import Store

DEVICE = "cpu|Some CPU|avx512|4"
FAMILIES = [
    f"f32->f32 n{n} k{k} a:row b:col plain ieee t4" for n in (768, 1024, 3072, 4096) for k in (768, 4096)
]
BUCKETS = [1 << i for i in range(13)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Some hundred rows, as a machine has that runs a few models, read from disk."""
    path = tmp_path / "tuning.sqlite3"
    writer = Store(path)
    for family in FAMILIES:
        for m in BUCKETS:
            writer.put(Row(DEVICE, "matmul", family, m, 1, "cpu", {"algorithm": "gemm"}, 1e-3, "[]", {}))
    store = Store(path)
    assert len(store.every_row()) == len(FAMILIES) * len(BUCKETS)
    return store


def test_store_lookup(benchmark: Any, store: Store) -> None:
    found = benchmark(store.row, DEVICE, "matmul", FAMILIES[-1], 4096, 1)
    assert found is not None
    benchmark.extra_info["budget_us"] = 2.0
