"""The oracle: the definition, written out in float64 and rounded once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tilewright.kernels.epilogue import activate
from tilewright.kernels.frozen import unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.matmul.problem import MatmulProblem


def matmul_float64(
    a: Tensor, b: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, activation: str = "none"
) -> tuple[Tensor, Tensor]:
    """(y, z) in float64: ``z = a·b + bias + residual`` and ``y = act(z)``, shapes as for `torch.matmul`."""
    z = torch.matmul(a.double(), b.double())
    if bias is not None:
        z = z + (bias.reshape(()) if b.ndim == 1 else bias).double()
    if residual is not None:
        z = z + residual.double()
    return activate(z, activation), z


@dataclass(frozen=True, slots=True)
class ReferenceConfig:
    algorithm: str = "float64"

    def __str__(self) -> str:
        return self.algorithm


class ReferenceMatmul:
    name = "reference"
    operation = "matmul"
    device_kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")
    config_type = ReferenceConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        return None

    def configs(self, problem: MatmulProblem, device: DeviceSpec) -> Iterable[ReferenceConfig]:
        return (ReferenceConfig(),)

    def rejects(self, config: ReferenceConfig, problem: MatmulProblem, device: DeviceSpec) -> str | None:
        if config != ReferenceConfig():
            return f"the reference has one config, {ReferenceConfig()}, not {config}"
        if not problem.dtype.is_floating_point:
            return f"float64 does not hold sums of {problem.dtype} exactly"
        return None

    def bind(self, config: ReferenceConfig, problem: MatmulProblem) -> Launch:
        activation, out_dtype = problem.activation, problem.out_dtype

        def launch(
            a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
        ) -> Tensor | tuple[Tensor, Tensor]:
            y, z = matmul_float64(a, b, bias, residual, activation)
            # Copied: casting float64 to float64 would return z itself twice where act is the identity.
            y = y.to(out_dtype, memory_format=torch.contiguous_format)
            if not problem.keep_preact:
                return y
            return y, z.to(out_dtype, copy=True, memory_format=torch.contiguous_format)

        return unwrapped(launch) if problem.frozen_b else launch


BACKEND = ReferenceMatmul()
