"""Sizes that vary from call to call (M, the batch) share tuned choices in buckets.

Buckets are the powers of two and the midpoints between them: 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, …
"""

from __future__ import annotations

import math

MOST_OCTAVES = 2.0
"""A choice serves sizes up to four times larger or smaller than its bucket. Beyond that a matrix product
passes from bandwidth-bound to compute-bound, and the cost model knows better."""


def bucket(size: int) -> int:
    """The bucket nearest to `size` in log space; the smaller one of two equally near."""
    if size < 3:
        return max(size, 0)
    power = 1 << (size.bit_length() - 1)
    return min((power, power * 3 // 2, power * 2), key=lambda b: (abs(math.log2(size / b)), b))


def octaves(one: tuple[int, int], other: tuple[int, int]) -> float:
    """How far apart two (M, batch) pairs are: the larger of the two distances in powers of two.

    Empty sizes are near to nothing but themselves.
    """
    distance = 0.0
    for x, y in zip(one, other, strict=True):
        if x != y:
            distance = max(distance, math.log2(max(x, y) / min(x, y)) if min(x, y) > 0 else math.inf)
    return distance
