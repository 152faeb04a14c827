"""linear on a frozen weight: past torch's dispatcher, straight to the kernel that is bound for it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.kernels.frozen import FrozenOperand
from tilewright.ops.matmul_kernels import linear_problem

_lookup, _current, _num_threads = dispatch.lookup, settings.current, torch.get_num_threads


class FrozenWeight:
    """A layer's weight (out_features, in_features) that will not change, with what kernels packed of it."""

    __slots__ = ("_generation", "operand", "signature", "weight")

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.signature = (weight.shape, weight.stride(), weight.dtype)
        self.renew()

    def renew(self) -> None:
        """Lets go of packed forms. A launch that is under way keeps those that it uses."""
        self._generation = dispatch.generation()
        self.operand = FrozenOperand(self.weight.t())

    def outdated(self) -> bool:
        """Whether choices were forgotten since: other kernels may be chosen now, which want other forms."""
        return self._generation != dispatch.generation()


def frozen_linear(
    x: Tensor,
    weight: FrozenWeight,
    bias: Tensor | None,
    bias_key: Any,
    activation: str,
    residual: Tensor | None,
) -> Tensor:
    """`linear` on CPU tensors, of which no gradient is wanted and that nobody watches.

    `bias_key` is the bias's (shape, strides, dtype), which its owner knows: asking takes 0.2 µs.
    """
    key = (
        "frozen_linear",
        x.shape,
        x.stride(),
        weight.signature,
        bias_key,
        None if residual is None else (residual.shape, residual.stride(), residual.dtype),
        activation,
        _current().key,
        _num_threads(),
    )
    launch = _lookup(key)
    if launch is None:
        if weight.outdated():
            weight.renew()
        pose = partial(
            linear_problem, x, weight.weight, bias, activation=activation, residual=residual, frozen=True
        )
        launch = dispatch.resolve("matmul", key, pose)
    y: Tensor = launch(x, weight.operand, bias, residual)
    return y
