"""Hugging Face's Conv1D: a linear layer that keeps its weight as (in, out)."""

from __future__ import annotations

from tilewright import nn
from tilewright.acceleration.fused import Fused

CONV1D_NAMES = frozenset({"transformers.pytorch_utils.Conv1D", "transformers.modeling_utils.Conv1D"})
"""Recognised by name, as the package need not be there."""


class Conv1D(Fused, nn.Conv1D):
    """`tilewright.nn.Conv1D` that does the work of an activation behind it."""

    plain = nn.Conv1D
    norm = None
    norm_dims = 0
