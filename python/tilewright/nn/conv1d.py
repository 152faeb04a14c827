"""Hugging Face's Conv1D, which is a linear layer, with a fused epilogue and, in inference, a packed weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from tilewright.nn.packed_layer import PackedLayer
from tilewright.ops import linear
from tilewright.ops.packed import FrozenWeight, frozen_linear


class Conv1D(PackedLayer):
    """The linear layer of GPT-2 in Hugging Face's transformers: ``y = act(x·weight + bias + residual)``.

    Parameters, initialization and state_dict are those of ``transformers.pytorch_utils.Conv1D``: the weight is
    (in, out), the transpose of `Linear`'s, and multiplied by as it lies. The package is not needed. In inference on a
    CPU the weight is packed: `PackedLayer` says when, and what that promises.

    Args:
        nf: features of the output.
        nx: features of the input.
        activation: ``"none"``, ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"`` or ``"silu"``; may be set later too.
        device, dtype: of the parameters.

    Shapes:
        ``layer(x, residual=None)``: x (..., nx), residual broadcasts to (..., nf) and is added before the activation,
        y (..., nf).

    Raises:
        ArgumentError: unknown activation. Calls raise the errors of `tilewright.linear`.
    """

    weight_dims = 2
    transposed = True
    operation = staticmethod(linear)

    def __init__(
        self,
        nf: int,
        nx: int,
        activation: str = "none",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(activation)
        self.nf, self.nx = nf, nx
        self.weight = Parameter(torch.empty(nx, nf, device=device, dtype=dtype))
        self.bias = Parameter(torch.zeros(nf, device=device, dtype=dtype))
        torch.nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return super().forward(x, residual)

    def extra_repr(self) -> str:
        return f"nf={self.nf}, nx={self.nx}{super().extra_repr()}"

    def _run(
        self,
        operation: Callable[..., Any],
        x: Tensor,
        weight: Any,
        bias: Any,
        residual: Tensor | None,
        activation: str,
    ) -> Any:
        return operation(x, weight.t(), bias, activation=activation, residual=residual)

    def _run_frozen(
        self,
        x: Tensor,
        weight: FrozenWeight,
        bias: Tensor | None,
        bias_key: Any,
        residual: Tensor | None,
        activation: str,
    ) -> Tensor:
        return frozen_linear(x, weight, bias, bias_key, activation, residual)

    def _examples(self) -> tuple[int, ...]:
        return 1, 128

    def _example(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(size, self.nx, dtype=dtype)
