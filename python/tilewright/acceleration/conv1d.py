"""Hugging Face's Conv1D: a linear layer that keeps its weight as (in, out)."""

from __future__ import annotations

from torch import Tensor

from tilewright import nn
from tilewright.acceleration.fused import Fused, compiled_around, get_frame

CONV1D_NAMES = frozenset({"transformers.pytorch_utils.Conv1D", "transformers.modeling_utils.Conv1D"})
"""Recognised by name, as the package need not be there."""


class Conv1D(Fused, nn.Conv1D):
    """`tilewright.nn.Conv1D` that does the work of an activation behind it."""

    plain = nn.Conv1D
    norm = None
    norm_dims = 0

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        # Written again, as what looks for the caller must be what the caller called.
        if residual is not None or not self._infers(x, None) or compiled_around() is not None:
            return super().forward(x, residual)
        return self._infer_for(x, self._followers(get_frame(1)))
