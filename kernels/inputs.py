"""Random operands of a given geometry, down to strides and alignment: what tuning runs on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tilewright.errors import ArgumentError

_LARGEST_OPERAND = 8 << 30  # bytes of storage; a view with huge strides needs it although it has few elements

Layout = tuple[Sequence[int], Sequence[int]]
"""A tensor's (shape, strides)."""


def without_memory(layout: Layout | None, dtype: torch.dtype | None) -> Tensor | None:
    """A tensor of this geometry that holds nothing: to try what problem it leads to."""
    if layout is None or dtype is None:
        return None
    return torch.empty_strided(layout[0], layout[1], dtype=dtype, device="meta")


def random_operand(
    operation: str,
    layout: Layout,
    dtype: torch.dtype,
    scale: float,
    offset_bytes: int,
    device: torch.device,
    generator: torch.Generator | None,
) -> Tensor:
    """Normal values times `scale`, or integers between -4 and 4, `offset_bytes` after an aligned address.

    Raises:
        ArgumentError: the strides span more than 8 GiB.
    """
    shape, strides = layout
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    span = 0 if 0 in shape else 1 + last
    if span * dtype.itemsize > _LARGEST_OPERAND:
        raise ArgumentError(
            f"{operation}: an operand spans {span * dtype.itemsize >> 30} GiB; tune a smaller problem"
        )
    offset = offset_bytes // dtype.itemsize
    if dtype.is_floating_point:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        flat = (
            torch.randn(span + offset, generator=generator, dtype=wide, device=device).mul_(scale).to(dtype)
        )
    else:
        low = -4 if dtype.is_signed else 0
        flat = torch.randint(low, 5, (span + offset,), generator=generator, dtype=dtype, device=device)
    return flat.as_strided(shape, strides, offset)
