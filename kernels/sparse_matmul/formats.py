"""The stored formats of a sparse weight W (N, K), and what they are to a dense one. README.md draws them bit by bit.

Everything here is ATen alone, keeps static shapes and is differentiable with respect to the values, so that gradients,
``torch.compile`` and ``torch.export`` pass through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FORMAT_VERSION = 1
"""Of the layouts below. A stored weight of another version is refused."""

FORMATS = ("2:4", "bsr", "bitmap")

BUFFERS: dict[str, tuple[str, ...]] = {
    "2:4": ("values", "indices"),
    "bsr": ("crow", "col", "values"),
    "bitmap": ("bits", "row", "values"),
}
"""The tensors of each format, in the order that operations take them."""

WORD = 64
"""Columns in a word of a bitmap."""

Buffers = tuple[Tensor, ...]

_masked_sample: Any = torch.ops.aten.masked_scatter_backward.default


def ceil(size: int, step: int) -> int:
    return (size + step - 1) // step


def values_of(form: str, buffers: Sequence[Any]) -> Any:
    """The one buffer that is differentiable; the others are integers."""
    return buffers[BUFFERS[form].index("values")]


def with_values(form: str, buffers: Sequence[Tensor], values: Tensor) -> Buffers:
    """The same positions with other values."""
    at = BUFFERS[form].index("values")
    return (*buffers[:at], values, *buffers[at + 1 :])


def block_of(form: str, buffers: Sequence[Tensor]) -> tuple[int, int]:
    """(rows, columns) of a block; (1, 1) of the other formats."""
    return (buffers[2].shape[1], buffers[2].shape[2]) if form == "bsr" else (1, 1)


def kept(form: str, buffers: Sequence[Tensor], n: int, k: int) -> Tensor:
    """Bool (N, K): the stored positions. All others are structural zeros, which contribute nothing."""
    if form == "bitmap":
        return bitmap_mask(buffers[0], k)
    ones = torch.ones_like(values_of(form, buffers), dtype=torch.uint8)
    return dense_of(form, with_values(form, buffers, ones), n, k).bool()


def dense_of(form: str, buffers: Sequence[Tensor], n: int, k: int) -> Tensor:
    """W (N, K) with zeros in it, contiguous."""
    if form == "bitmap":
        bits, _, values = buffers
        return values.new_zeros((n, k)).masked_scatter(bitmap_mask(bits, k), values)
    if form == "2:4":
        values, indices = buffers
        groups = ceil(k, 4)
        wide = values.new_zeros((n, groups, 4))
        wide = wide.scatter(2, positions_2to4(indices, groups), values.view(n, groups, 2))
        return wide.view(n, 4 * groups)[:, :k].contiguous()
    crow, col, values = buffers
    _, r, c = values.shape
    down, across = ceil(n, r), ceil(k, c)
    grid = values.new_zeros((down * across, r, c)).index_copy(0, _places(crow, col, across), values)
    return grid.view(down, across, r, c).transpose(1, 2).reshape(down * r, across * c)[:n, :k].contiguous()


def sample(form: str, buffers: Sequence[Tensor], n: int, k: int, dense: Tensor) -> Tensor:
    """The elements of a matrix (N, K) at the kept positions, laid out as the values are; zero in their padding."""
    values = values_of(form, buffers)
    if form == "bitmap":
        found: Tensor = _masked_sample(dense.contiguous(), bitmap_mask(buffers[0], k), values.shape)
        return found
    if form == "2:4":
        groups = ceil(k, 4)
        wide = torch.nn.functional.pad(dense, (0, 4 * groups - k)).view(n, groups, 4)
        return wide.gather(2, positions_2to4(buffers[1], groups)).view(values.shape)
    crow, col, _ = buffers
    _, r, c = values.shape
    down, across = ceil(n, r), ceil(k, c)
    wide = torch.nn.functional.pad(dense, (0, across * c - k, 0, down * r - n))
    grid = wide.view(down, r, across, c).transpose(1, 2).reshape(down * across, r, c)
    return grid.index_select(0, _places(crow, col, across))


def bitmap_mask(bits: Tensor, k: int) -> Tensor:
    """Bool (N, K) of words (N, ceil(K/64)): bit j of word w is column 64·w + j."""
    octets = bits.view(torch.uint8)
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    spread = (octets.unsqueeze(-1) >> shifts) & 1
    return spread.view(bits.shape[0], bits.shape[1] * WORD)[:, :k].bool()


def bitmap_bits(mask: Tensor) -> Tensor:
    """Words int64 (N, ceil(K/64)) of a bool mask (N, K)."""
    n, k = mask.shape
    words = ceil(k, WORD)
    if words == 0:
        return mask.new_zeros((n, 0), dtype=torch.int64)
    wide = torch.nn.functional.pad(mask.to(torch.uint8), (0, words * WORD - k)).view(n, words * 8, 8)
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=mask.device)
    # Sums of distinct powers of two up to 255 fit the octet they are kept in.
    return (wide * weights).sum(-1, dtype=torch.uint8).view(torch.int64)


def nibbles_2to4(indices: Tensor, groups: Any) -> Tensor:
    """uint8 (N, groups), a nibble for each group; with `groups` None, those of the padding too."""
    both = torch.stack((indices & 15, indices >> 4), dim=-1).flatten(1)
    return both if groups is None else both[:, :groups]


def positions_2to4(indices: Tensor, groups: Any) -> Tensor:
    """int64 (N, groups, 2): the two columns, 0 to 3, that each group of four keeps."""
    nibbles = nibbles_2to4(indices, groups)
    return torch.stack((nibbles & 3, (nibbles >> 2) & 3), dim=-1).long()


def indices_2to4(positions: Tensor) -> Tensor:
    """uint8 (N, ceil(groups/2)) of positions (N, groups, 2)."""
    nibbles = (positions[..., 0] | (positions[..., 1] << 2)).to(torch.uint8)
    nibbles = torch.nn.functional.pad(nibbles, (0, nibbles.shape[1] % 2))
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def _places(crow: Tensor, col: Tensor, across: int) -> Tensor:
    """int64 (blocks,): where each block stands in a grid of blocks, counted row by row."""
    number = torch.arange(col.shape[0], device=col.device, dtype=crow.dtype)
    return torch.searchsorted(crow[1:].contiguous(), number, right=True) * across + col
