"""What the compiler can know about addresses: whether 16-byte loads, copies and stores are safe.

Triton learns of an integer argument only whether it is a multiple of 16. A pixel of 24 halves is a multiple of 16
bytes, but 24 is no multiple of 16: every load would be of 2 bytes, through registers, without a pipeline. So the
kernels take a constant *unit* for each tensor and rewrite its strides as ``stride // unit * unit``.
"""

from __future__ import annotations

import torch

VECTOR_BYTES = 16
_KNOWN_MULTIPLE = 16  # what Triton checks of an integer argument


def unit(extents: tuple[int, ...], dtype: torch.dtype, alignment: int) -> int:
    """Elements of a 16-byte vector if all extents are multiples of it, and Triton does not see so by itself; else 1.

    Args:
        extents: the strides of a tensor but its unit stride, and the size of the dimension that has that.
        alignment: bytes that divide the tensor's address.
    """
    vector = VECTOR_BYTES // dtype.itemsize
    if alignment % VECTOR_BYTES or any(extent % vector for extent in extents):
        return 1
    return 1 if all(extent % _KNOWN_MULTIPLE == 0 for extent in extents) else vector


def has_vectors(extents: tuple[int, ...], dtype: torch.dtype, alignment: int) -> bool:
    """Whether the compiler will know that a tensor of these extents consists of aligned 16-byte vectors."""
    return alignment % VECTOR_BYTES == 0 and all(
        extent % (VECTOR_BYTES // dtype.itemsize) == 0 for extent in extents
    )


def run(pixels: int, extents: tuple[int, ...], dtype: torch.dtype, alignment: int) -> int:
    """How many neighbouring pixels of each channel surely form an aligned vector: a power of two, 1 for none.

    Args:
        pixels: of an image whose rows follow each other without a gap.
        extents: the strides of the tensor's other dimensions.
    """
    longest = min(VECTOR_BYTES, alignment & -alignment) // dtype.itemsize
    while longest > 1 and any(extent % longest for extent in (pixels, *extents)):
        longest //= 2
    return max(longest, 1)
