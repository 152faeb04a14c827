"""The jobs of ``tilewright compile``: every config, each with a problem that asks much of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tilewright.errors import ArgumentError
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.problem import MatmulProblem, Precision
from tilewright.kernels.matmul.triton.config import TritonConfig, candidates
from tilewright.kernels.matmul.triton.limits import rejects
from tilewright.kernels.triton_proof import DTYPES

# From one row to a large batch of tokens against a 4096 x 4096 layer, with the shallow and deep products
# that call for split-K; between them they list every tile.
_SIZES = ((8192, 4096, 4096), (512, 4096, 4096), (64, 4096, 4096), (1, 4096, 4096), (128, 256, 16384))


def linear_problem(
    m: int, n: int, k: int, dtype: torch.dtype, precision: Precision = "ieee", b_row: bool = False
) -> MatmulProblem:
    """A linear layer with all of the epilogue: what costs a kernel the most registers. Allocates nothing."""

    def matrix(rows: int, cols: int) -> Tensor:
        return torch.empty(rows, cols, dtype=dtype, device="meta")

    return MatmulProblem.from_tensors(
        matrix(m, k),
        matrix(k, n) if b_row else matrix(n, k).t(),
        torch.empty(n, dtype=dtype, device="meta"),
        matrix(m, n),
        activation="gelu",
        keep_preact=True,
        precision=precision,
    )


def proof_jobs(
    device: DeviceSpec, dtypes: Sequence[str] | None = None
) -> Iterator[tuple[TritonConfig, MatmulProblem]]:
    """Each config that `device` may be offered, once per dtype.

    Of configs that differ in how K is split or rows are grouped one is taken, and one that does not split:
    the others differ from it in a constant of the prologue.

    Raises:
        ArgumentError: a name in `dtypes` is not in `DTYPES`.
    """
    for name in dtypes or DTYPES:
        if name not in DTYPES:
            raise ArgumentError(f"compile: dtype is {name!r}; expected some of {', '.join(DTYPES)}")
        dtype, precision = DTYPES[name]
        seen: set[TritonConfig] = set()
        for m, n, k in _SIZES:
            problem = linear_problem(m, n, k, dtype, precision)
            for config in candidates(problem, device):
                kind = replace(config, group_m=1, split_k=min(config.split_k, 2))
                if kind not in seen and rejects(config, problem, device) is None:
                    seen.add(kind)
                    yield config, problem
