"""The operations as torch sees them; a file each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilewright.ops import flop_formulas
from tilewright.ops.library import decomposition_table
from tilewright.ops.matmul import linear, matmul
from tilewright.ops.matmul_kernels import linear_problem, matmul_problem

PROBLEMS: dict[str, Callable[..., tuple[str, Any]]] = {
    "matmul": lambda *args, **kwargs: ("matmul", matmul_problem(*args, **kwargs)),
    "linear": lambda *args, **kwargs: ("matmul", linear_problem(*args, **kwargs)),
}
"""Public function -> (kernel folder, problem) of a call with the same arguments."""

flop_formulas.install()

__all__ = ["PROBLEMS", "decomposition_table", "linear", "matmul"]
