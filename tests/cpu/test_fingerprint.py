"""A digest tells any change of memory, a sample changes that reach one of its words."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright import _C

SIZES = [0, 1, 7, 8, 63, 64, 65, 4096, (1 << 20) - 3, 1 << 20, (3 << 20) + 5]


def digest(data: np.ndarray, threads: int = 1) -> int:
    return _C.digest(data.ctypes.data, data.nbytes, threads)


@pytest.mark.parametrize("size", SIZES)
def test_every_bit_counts(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    whole = digest(data)
    assert digest(data.copy()) == whole
    for place in {0, 1, size // 3, size // 2, size - 9, size - 8, size - 2, size - 1} & set(range(size)):
        for bit in (1, 128):
            data[place] ^= bit
            assert digest(data) != whole, f"bit {bit} of byte {place}"
            data[place] ^= bit
    assert digest(data) == whole


@pytest.mark.parametrize("size", SIZES)
def test_the_number_of_threads_does_not_matter(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert len({digest(data, threads) for threads in (1, 2, 3, 5)}) == 1


def test_order_and_length_matter() -> None:
    data = np.arange(1 << 18, dtype=np.float32)
    seen = {digest(data), digest(data[::-1].copy()), digest(data[:-1]), digest(np.roll(data, 16))}
    swapped = data.copy()
    swapped[[3, 200_000]] = swapped[[200_000, 3]]
    assert len(seen | {digest(swapped)}) == 5
    assert digest(np.zeros(64, np.uint8)) != digest(np.zeros(128, np.uint8))


def test_a_sample_sees_both_ends_and_what_lies_between() -> None:
    data = np.random.default_rng(1).standard_normal((333, 77)).astype(np.float32)

    def sample() -> int:
        return _C.sample(data.ctypes.data, data.nbytes, 64)

    before = sample()
    assert sample() == before
    for place in ((0, 0), (-1, -1)):
        data[place] += 1
        assert sample() != before, place
        data[place] -= 1
    data[100:110] *= 2  # ten rows: more than lie between two words of the sample
    assert sample() != before


def test_small_memory_is_sampled_whole() -> None:
    data = np.arange(100, dtype=np.uint8)
    before = _C.sample(data.ctypes.data, data.nbytes, 64)
    for place in range(100):
        data[place] += 1
        assert _C.sample(data.ctypes.data, data.nbytes, 64) != before
        data[place] -= 1


def test_nonsense_is_refused() -> None:
    data = np.zeros(64, np.uint8)
    with pytest.raises(ValueError, match="threads"):
        _C.digest(data.ctypes.data, data.nbytes, 0)
    with pytest.raises(ValueError, match="count"):
        _C.sample(data.ctypes.data, data.nbytes, 1)
