"""The epilogue that every kernel fuses: ``y = act(z)`` with ``z = A·B + bias + residual``.

The residual is added before the activation. Kernels hold ``z`` in fp32 and round once, when ``y`` is stored.
This file is the definition; ``kernels/triton_epilogue.py`` and ``csrc/cpu/epilogue.h`` implement it, and
the contract test compares each with it.

============  ==========================================================  =====================
activation    act(z)                                                      backward needs
============  ==========================================================  =====================
none          z                                                           nothing
relu          max(z, 0), NaN stays NaN                                    y
gelu          z/2 · (1 + erf(z/√2))                                       z
gelu_tanh     z/2 · (1 + tanh(√(2/π) · (z + 0.044715 z³)))                z
silu          z / (1 + exp(-z))                                           z
============  ==========================================================  =====================
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")

ACTIVATION_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
"""The numbers by which C++ and Triton kernels know the activations."""

NEEDS_PREACT = frozenset({"gelu", "gelu_tanh", "silu"})
"""Activations whose derivative needs z; relu's needs only y."""


def activate(z: Tensor, activation: str) -> Tensor:
    """act(z), elementwise, in z's dtype, by torch's own operators."""
    if activation == "none":
        return z
    if activation == "relu":
        return torch.relu(z)
    if activation == "gelu":
        return torch.nn.functional.gelu(z)
    if activation == "gelu_tanh":
        return torch.nn.functional.gelu(z, approximate="tanh")
    return torch.nn.functional.silu(z)


_threshold_backward: Any = torch.ops.aten.threshold_backward.default
_gelu_backward: Any = torch.ops.aten.gelu_backward.default
_silu_backward: Any = torch.ops.aten.silu_backward.default


def activate_backward(grad: Tensor, saved: Tensor, activation: str) -> Tensor:
    """grad · act'(z), where `saved` is y for relu and z for the others; itself differentiable."""
    result: Tensor
    if activation == "none":
        result = grad
    elif activation == "relu":
        result = _threshold_backward(grad, saved, 0)
    elif activation == "gelu":
        result = _gelu_backward(grad, saved)
    elif activation == "gelu_tanh":
        result = _gelu_backward(grad, saved, approximate="tanh")
    elif torch.is_grad_enabled():
        # torch has no derivative of silu_backward, which a second backward would ask for.
        sigmoid = torch.sigmoid(saved)
        result = grad * sigmoid * (1 + saved * (1 - sigmoid))
    else:
        result = _silu_backward(grad, saved)
    return result
