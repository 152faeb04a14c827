"""torch.nn.Linear with a fused epilogue and, in inference, a packed weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tilewright.nn.packed_layer import PackedLayer, check_taken_over
from tilewright.ops import linear
from tilewright.ops.packed import FrozenWeight, frozen_linear


class Linear(PackedLayer, torch.nn.Linear):
    """A fully connected layer with a fused epilogue: ``y = act(x·weightᵀ + bias + residual)``.

    A `torch.nn.Linear` with an activation: parameters, initialization and state_dict are torch's, in both directions,
    and code that looks for `torch.nn.Linear` finds it. In inference on a CPU its weight is packed: `PackedLayer` says
    when, and what that promises.

    Args:
        in_features, out_features, bias, device, dtype: as for `torch.nn.Linear`.
        activation: ``"none"``, ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"`` or ``"silu"``; may be set later too.

    Shapes:
        ``layer(input, residual=None)``: input x (..., in_features), residual broadcasts to (..., out_features) and is
        added before the activation, y (..., out_features).

    Raises:
        ArgumentError: unknown activation. Calls raise the errors of `tilewright.linear`.
    """

    weight_dims = 2
    replaces = torch.nn.Linear
    operation = staticmethod(linear)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "none",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(activation, in_features, out_features, bias, device, dtype)

    @classmethod
    def from_torch(cls, module: torch.nn.Linear, activation: str = "none") -> Linear:
        """A layer with the parameters (the same objects), dtype, device and mode of a `torch.nn.Linear`.

        While `module` is alive it holds the weight too, so the weight is not packed by itself (see the class).

        Raises:
            ArgumentError: `module` is no `torch.nn.Linear`, has a forward of its own, was not run yet (a lazy one), is
                parametrized (pruned, weight-normalized), or has hooks, which would be lost.
        """
        check_taken_over(cls, module)
        layer = cls(module.in_features, module.out_features, module.bias is not None, activation, "meta")
        layer.weight, layer.bias = module.weight, module.bias
        return layer.train(module.training)

    def _run(
        self,
        operation: Callable[..., Any],
        x: Tensor,
        weight: Any,
        bias: Any,
        residual: Tensor | None,
        activation: str,
    ) -> Any:
        return operation(x, weight, bias, activation=activation, residual=residual)

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
        return torch.zeros(size, self.in_features, dtype=dtype)
