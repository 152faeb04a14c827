"""The operations as torch sees them; a file each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilewright.ops import flop_formulas
from tilewright.ops.conv2d import conv2d, conv2d_relu, posed
from tilewright.ops.library import decomposition_table
from tilewright.ops.matmul import linear, matmul
from tilewright.ops.matmul_kernels import linear_problem, matmul_problem
from tilewright.ops.sparse_matmul import sparse_matmul
from tilewright.ops.sparse_matmul_kernels import sparse_matmul_problem

PROBLEMS: dict[str, Callable[..., tuple[str, Any]]] = {
    "conv2d": posed,
    "conv2d_relu": lambda *args, **kwargs: posed(*args, activation="relu", **kwargs),
    "matmul": lambda *args, **kwargs: ("matmul", matmul_problem(*args, **kwargs)),
    "linear": lambda *args, **kwargs: ("matmul", linear_problem(*args, **kwargs)),
    "sparse_matmul": lambda *args, **kwargs: ("sparse_matmul", sparse_matmul_problem(*args, **kwargs)),
}
"""Public function -> (kernel folder, problem) of a call with the same arguments."""

flop_formulas.install()

__all__ = ["PROBLEMS", "conv2d", "conv2d_relu", "decomposition_table", "linear", "matmul", "sparse_matmul"]
