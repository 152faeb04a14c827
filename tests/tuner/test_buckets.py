from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tilewright.tuner.buckets import bucket, octaves

SIZES = st.integers(0, 2**40)


def test_buckets_are_powers_of_two_and_their_midpoints() -> None:
    assert sorted({bucket(size) for size in range(130)}) == [
        0,
        1,
        2,
        3,
        4,
        6,
        8,
        12,
        16,
        24,
        32,
        48,
        64,
        96,
        128,
    ]


@given(SIZES)
def test_a_bucket_is_its_own_bucket(size: int) -> None:
    assert bucket(bucket(size)) == bucket(size)


@given(SIZES, SIZES)
def test_buckets_keep_the_order(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert bucket(low) <= bucket(high)


@given(st.integers(1, 2**40))
def test_a_size_is_less_than_a_third_of_an_octave_from_its_bucket(size: int) -> None:
    assert abs(math.log2(size / bucket(size))) < 1 / 3


@given(SIZES, SIZES, SIZES, SIZES)
def test_octaves_are_a_distance(m1: int, b1: int, m2: int, b2: int) -> None:
    one, other = (m1, b1), (m2, b2)
    assert octaves(one, other) == octaves(other, one) >= 0
    assert (octaves(one, other) == 0) == (one == other)


def test_an_empty_size_is_near_to_no_other() -> None:
    assert octaves((0, 1), (1, 1)) == math.inf
    assert octaves((8, 1), (2, 1)) == 2
