"""The oracle: the definition, written out in float64 and rounded once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tilewright.kernels.epilogue import activate
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.sparse_matmul.operand import SparseOperand
from tilewright.kernels.sparse_matmul.problem import SparseMatmulProblem


def product_float64(x: Tensor, dense: Tensor, kept: Tensor) -> Tensor:
    """x·Wᵀ over the kept positions alone: what is not kept contributes nothing, not even 0 times NaN."""
    x, dense = x.double(), dense.double()
    if bool(x.isfinite().all()):
        return torch.matmul(x, dense.t())  # a finite number times a structural zero is nothing
    out = x.new_zeros(x.shape[0], dense.shape[0])
    for row in range(dense.shape[0]):
        columns = kept[row].nonzero()[:, 0]
        out[:, row] = torch.mv(x[:, columns], dense[row, columns])
    return out


def sparse_matmul_float64(
    x: Tensor,
    weight: SparseOperand,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
) -> tuple[Tensor, Tensor]:
    """(y, z) in float64: ``z = x·Wᵀ + bias + residual`` and ``y = act(z)``; x (m, k), residual (m, n)."""
    z = product_float64(x, weight.dense(), weight.kept())
    if bias is not None:
        z = z + bias.double()
    if residual is not None:
        z = z + residual.double()
    return activate(z, activation), z


@dataclass(frozen=True, slots=True)
class ReferenceConfig:
    algorithm: str = "float64"

    def __str__(self) -> str:
        return self.algorithm


class ReferenceSparseMatmul:
    name = "reference"
    operation = "sparse_matmul"
    device_kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")
    config_type = ReferenceConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        return None

    def configs(self, problem: SparseMatmulProblem, device: DeviceSpec) -> Iterable[ReferenceConfig]:
        return (ReferenceConfig(),)

    def rejects(
        self, config: ReferenceConfig, problem: SparseMatmulProblem, device: DeviceSpec
    ) -> str | None:
        if config != ReferenceConfig():
            return f"the reference has one config, {ReferenceConfig()}, not {config}"
        return None

    def bind(self, config: ReferenceConfig, problem: SparseMatmulProblem) -> Launch:
        activation, dtype, keep = problem.activation, problem.dtype, problem.keep_preact

        def launch(
            x: Tensor, weight: SparseOperand, bias: Tensor | None, residual: Tensor | None
        ) -> Tensor | tuple[Tensor, Tensor]:
            y, z = sparse_matmul_float64(x, weight, bias, residual, activation)
            y = y.to(dtype, memory_format=torch.contiguous_format)
            if not keep:
                return y
            # Copied: casting float64 to float64 would return z itself twice where act is the identity.
            return y, z.to(dtype, copy=True, memory_format=torch.contiguous_format)

        return launch


BACKEND = ReferenceSparseMatmul()
