"""SparseWeight: a compressed weight as plain, portable, versioned buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, FormatError
from tilewright.kernels.sparse_matmul.formats import (
    BUFFERS,
    FORMAT_VERSION,
    Buffers,
    block_of,
    dense_of,
    kept,
    sample,
    values_of,
    with_values,
)
from tilewright.kernels.sparse_matmul.validate import (
    VALUE_DTYPES,
    check_contents,
    check_format,
    check_layout,
    check_version,
)
from tilewright.sparse import convert


class SparseWeight:
    """A weight W (N, K) in one of the stored formats, checked when it is made.

    Attributes:
        format: ``"2:4"``, ``"bsr"`` or ``"bitmap"``; ``kernels/sparse_matmul/README.md`` draws each bit by bit.
        shape: (N, K), as of `torch.nn.Linear`'s weight.
        buffers: the tensors, in the order of `names`: integers, and ``values`` of a floating dtype.
        format_version: of the layout.

    A weight is a holder: it is no tensor, and operations take its buffers. `values` may require a gradient. Whoever
    writes to the buffers keeps them valid; a write that torch counts has them checked again before a kernel reads them.

    Args:
        form: the format.
        shape: (N, K).
        buffers: by position or by name.
        format_version: what they were written as.

    Raises:
        FormatError: anything about the buffers that is not as the format says. Nothing was run on them.
    """

    __slots__ = ("buffers", "format", "format_version", "shape")

    def __init__(
        self,
        form: str,
        shape: Sequence[int],
        buffers: Mapping[str, Tensor] | Sequence[Tensor],
        format_version: int = FORMAT_VERSION,
    ) -> None:
        check_format("SparseWeight", form)
        check_version("SparseWeight", format_version)
        self.format, self.format_version = form, format_version
        self.shape = _checked_shape(shape)
        self.buffers: Buffers = _ordered(form, buffers)
        check_layout("SparseWeight", form, self.buffers, *self.shape)
        check_contents("SparseWeight", form, self.buffers, *self.shape)

    @classmethod
    def _trusted(cls, form: str, shape: tuple[int, int], buffers: Buffers) -> SparseWeight:
        """Of buffers that were made here."""
        self = cls.__new__(cls)
        self.format, self.format_version, self.shape, self.buffers = form, FORMAT_VERSION, shape, buffers
        return self

    # --- what it is --------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Of the buffers."""
        return BUFFERS[self.format]

    @property
    def values(self) -> Tensor:
        """The stored values, the one buffer that may require a gradient."""
        found: Tensor = values_of(self.format, self.buffers)
        return found

    @property
    def block(self) -> tuple[int, int]:
        """(rows, columns) of a block of bsr; (1, 1) of the other formats."""
        return block_of(self.format, self.buffers)

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def density(self) -> float:
        """Stored values, padding and stored zeros included, over N·K."""
        size = self.shape[0] * self.shape[1]
        return self.values.numel() / size if size else 0.0

    @property
    def nbytes(self) -> int:
        """Of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def kept(self) -> Tensor:
        """Bool (N, K): the stored positions."""
        return kept(self.format, self.buffers, *self.shape)

    def __repr__(self) -> str:
        block = "{}x{} ".format(*self.block) if self.format == "bsr" else ""
        dense = self.shape[0] * self.shape[1] * self.dtype.itemsize
        part = f" ({self.nbytes / dense:.3g} of dense)" if dense else ""
        lines = [
            f"SparseWeight({self.format} {block}of {self.shape[0]}x{self.shape[1]}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}, {100 * self.density:.3g} % stored, "
            f"{self.nbytes} bytes{part}, format_version {self.format_version})"
        ]
        for name, buffer in zip(self.names, self.buffers, strict=True):
            grad = ", requires_grad" if buffer.requires_grad else ""
            lines.append(f"  {name}: {str(buffer.dtype).removeprefix('torch.')} {tuple(buffer.shape)}{grad}")
        return "\n".join(lines)

    # --- in and out --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The buffers by name."""
        return dict(zip(self.names, self.buffers, strict=True))

    def to(self, *args: Any, **keywords: Any) -> SparseWeight:
        """On another device, or with values of another floating dtype; arguments as of `torch.Tensor.to`.

        Raises:
            ArgumentError: a dtype that values cannot have.
        """
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **keywords)
        if dtype is not None and dtype not in VALUE_DTYPES:
            raise ArgumentError(
                f"SparseWeight.to: dtype is {str(dtype)[6:]}; expected float32, bfloat16, float16 or float64"
            )
        moved = tuple(
            buffer.to(device, dtype if name == "values" else None, non_blocking)
            for name, buffer in zip(self.names, self.buffers, strict=True)
        )
        return SparseWeight._trusted(self.format, self.shape, moved)

    def with_values(self, values: Tensor) -> SparseWeight:
        """The same positions with other values, laid out as `values` is.

        Raises:
            FormatError: another shape, a dtype that values cannot have, or values where the format has padding.
        """
        return SparseWeight(self.format, self.shape, with_values(self.format, self.buffers, values))

    def sample(self, dense: Tensor) -> Tensor:
        """The elements of a matrix (N, K) at the stored positions, laid out as `values` is."""
        if tuple(dense.shape) != self.shape:
            raise ArgumentError(
                f"SparseWeight.sample: dense has shape {tuple(dense.shape)}; expected {self.shape}"
            )
        return sample(self.format, self.buffers, *self.shape, dense)

    def to_dense(self) -> Tensor:
        """W (N, K) with zeros in it; differentiable with respect to the values."""
        return dense_of(self.format, self.buffers, *self.shape)

    def to_torch(self, layout: str) -> Tensor:
        """As one of torch's own sparse tensors: ``"csr"``, ``"bsr"`` or ``"semi_structured"``.

        Raises:
            ArgumentError: another layout, or one that torch does not have for this weight, with the reason.
        """
        return convert.to_torch(self, layout)


def _checked_shape(shape: Any) -> tuple[int, int]:
    try:
        n, k = shape
    except (TypeError, ValueError):
        n = k = None
    if type(n) is not int or type(k) is not int:
        raise FormatError(f"SparseWeight: shape is {shape!r:.60}; expected two integers (N, K)")
    return n, k


def _ordered(form: str, buffers: Any) -> Buffers:
    names = BUFFERS[form]
    if not isinstance(buffers, Mapping):
        return tuple(buffers)
    if set(buffers) != set(names):
        raise FormatError(
            f"SparseWeight: buffers are {', '.join(map(str, buffers)) or 'none'}; expected {', '.join(names)} of a "
            f"{form} weight"
        )
    return tuple(buffers[name] for name in names)
