"""The published shape lists, for benchmarks here; they live in the package, as ``tilewright bench`` needs them.

Sources stand in `tilewright.benchmark.shapes`.
"""

from __future__ import annotations

from tilewright.benchmark.shapes import LISTS, ROWS, Shape, named

__all__ = ["LISTS", "ROWS", "Shape", "named"]
