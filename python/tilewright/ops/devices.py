"""What kernels for CUDA devices ask beside a call's shapes: where its tensors are, and under what settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tilewright import settings


def on_its_device(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, run with the device of its first tensor as the current one."""

    def guarded(first: Tensor, *others: Any) -> Any:
        if first.is_cuda and first.device.index != torch.cuda.current_device():
            with torch.cuda.device(first.device):
                return kernel(first, *others)
        return kernel(first, *others)

    return guarded


def cuda_surroundings(
    precision: Callable[[settings.Options, bool], Any],
) -> Callable[..., tuple[Any, ...]]:
    """What else a choice depends on there: devices, alignment, and for fp32 `precision` of (options, on CUDA)."""

    def surroundings(*tensors: Tensor | None) -> tuple[Any, ...]:
        present = [tensor for tensor in tensors if tensor is not None]
        address = 0
        for tensor in present:
            address |= tensor.data_ptr()
        admitted = precision(settings.current(), True) if present[0].dtype == torch.float32 else None
        return *(tensor.device for tensor in present), address & 15, admitted

    return surroundings
