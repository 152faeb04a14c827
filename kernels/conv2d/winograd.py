"""Winograd's convolution F(m, 3): its matrices, and how far from the exact result it may be.

An output tile of ``m × m`` pixels is ``y = A^T [(G w G^T) ⊙ (B^T x B)] A``, summed over the input channels, for the
patch x of ``(m + 2) × (m + 2)`` pixels under it. The matrices evaluate polynomials at m + 2 points and interpolate
(Toom and Cook's product, transposed): 0, infinity, ±5/8 and ±3/2, of which m outputs take the first m + 2.

**The bound.** Every value of the transformed operands and of the result is a sum whose terms are as large as those of
the same product with all signs dropped, ``|A^T| [(|G| |w| |G^T|) ⊙ (|B^T| |x| |B|)] |A|``. Call that, summed over the
channels, T. With C channels, and as many roundings as a term meets on its way (8 + 12 + 10 where there is no FMA)::

    |ẑ - z| ≤ (32 + 2√C) · u · (T + |bias| + |residual|)

T belongs to a tile, not to a pixel: a pixel whose own products are small errs by as much as the largest values that its
tile's patch holds make it. That is why the bound of a plain sum, which looks at a pixel's own products alone, does not
hold, and why the user's precision has to admit the algorithm. On operands of like size it errs about 1.7 times as much
as a sum from left to right (measured, C = 16 to 256).

The points were found by measuring. Over random operands, errors are 2.2 times (root mean square) and 4 times (largest)
smaller than with the customary 0, ±1, ±2 and infinity.

S. Winograd, "Arithmetic Complexity of Computations" (1980); A. Lavin, S. Gray, "Fast algorithms for convolutional
neural networks" (CVPR 2016); B. Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution for
deep neural networks" (ACM TOMS 46, 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from tilewright.kernels.conv2d.problem import Conv2dProblem

TILE = 4
"""Outputs of a tile's side."""

POINTS = TILE + 2
"""Points at which a tile's side is evaluated."""

_FINITE = (0.0, 0.625, -0.625, 1.5, -1.5)  # in the order in which shorter rows take them
_ROUNDINGS = 32
_UNIT = 2.0**-24
_MOST_VALUES = 1 << 24  # that are transformed at a time


def transforms(problem: Conv2dProblem) -> bool:
    """Whether the problem is one that Winograd's convolution computes, its precision aside."""
    return (
        problem.direction != "weight_gradient"
        and problem.kernel == (3, 3)
        and problem.stride == (1, 1)
        and problem.dilation == (1, 1)
    )


def admitted(problem: Conv2dProblem) -> bool:
    """Whether the problem's precision lets it run, on devices for which it is written."""
    return problem.device == "cpu" and problem.precision == "tf32" and transforms(problem)


@cache
def matrices(outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """A^T (outputs × n), G (n × 3) and B^T (n × n) in float64, n = outputs + 2; infinity is the last point.

    G is that of F(4, 3) for every number of outputs, so that they share a transformed weight; B^T makes up for it.
    """
    points, n = _FINITE[: outputs + 1], outputs + 2
    a, g, b = (torch.zeros(shape, dtype=torch.float64) for shape in ((outputs, n), (n, 3), (n, n)))
    for at, point in enumerate(points):
        others = [other for other in points if other != point]
        left_out = [other for other in _FINITE if other not in points]
        divisor = math.prod(point - other for other in _FINITE if other != point)
        a[:, at] = torch.tensor([point**power for power in range(outputs)])
        g[at] = torch.tensor([point**power / divisor for power in range(3)])
        factor = math.prod(point - other for other in left_out)
        b[at, : n - 1] = torch.tensor(_polynomial(others)) * factor
    a[outputs - 1, n - 1] = g[n - 1, 2] = 1.0
    b[n - 1] = torch.tensor(_polynomial(points))
    return a, g, b


def _polynomial(roots: tuple[float, ...] | list[float]) -> list[float]:
    """The coefficients of the product of ``z - root``, lowest first."""
    coefficients = [1.0]
    for root in roots:
        shifted = [0.0, *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, 0.0], strict=True)]
    return coefficients


def magnitudes(problem: Conv2dProblem, first: Tensor, second: Tensor) -> Tensor:
    """T of the module's docstring for each output: what an error of Winograd's convolution is relative to."""
    x, weight, padding = first.double().abs(), second.double().abs(), problem.padding
    if problem.direction == "input_gradient":
        # The convolution of dy with the flipped kernel, whose channels have changed places.
        groups = problem.groups
        by_group = weight.unflatten(0, (groups, weight.shape[0] // groups))
        weight = by_group.transpose(1, 2).flatten(0, 1).flip(2, 3)
        padding = tuple(2 - side for side in problem.padding)  # type: ignore[assignment]
    height, width = problem.out_shape[2:]
    # The patches of the last tiles reach beyond the padding, into zeros.
    top, _, left, _ = padding
    beyond_h = TILE * -(-height // TILE) + 2 - top - x.shape[2]
    beyond_w = TILE * -(-width // TILE) + 2 - left - x.shape[3]
    x = F.pad(x, (left, beyond_w, top, beyond_h))
    out = torch.zeros(problem.out_shape, dtype=torch.float64, device=x.device)
    row_of_patches = x.shape[0] * x.shape[1] * -(-width // TILE) * POINTS * POINTS
    for rows in _kinds(height, max(1, _MOST_VALUES // max(row_of_patches, 1))):
        for columns in _kinds(width, max(1, width)):
            part = _tiles(x, weight, problem.groups, rows, columns)
            out[:, :, rows.begin : rows.end, columns.begin : columns.end] = part
    return out


@dataclass(frozen=True, slots=True)
class _Kind:
    """Tiles of one kind along one side: those of four outputs, or the last one of fewer."""

    begin: int
    count: int
    outputs: int

    @property
    def end(self) -> int:
        return self.begin + self.count * self.outputs


def _kinds(size: int, most: int) -> list[_Kind]:
    """At most so many tiles at a time."""
    whole, rest = divmod(size, TILE)
    kinds = [_Kind(at * TILE, min(most, whole - at), TILE) for at in range(0, whole, most)]
    return [*kinds, _Kind(whole * TILE, 1, rest)] if rest else kinds


def _tiles(x: Tensor, weight: Tensor, groups: int, rows: _Kind, columns: _Kind) -> Tensor:
    """The magnitudes of all tiles of one kind, as an image."""
    (a_rows, g_rows, b_rows), (a_columns, g_columns, b_columns) = (
        tuple(matrix.abs().to(x.device) for matrix in matrices(kind.outputs)) for kind in (rows, columns)
    )
    x = x[:, :, rows.begin : rows.end + 2, columns.begin : columns.end + 2]
    patches = x.unfold(2, rows.outputs + 2, rows.outputs).unfold(3, columns.outputs + 2, columns.outputs)
    v = torch.einsum("ih,nctuhw,jw->ijtunc", b_rows, patches, b_columns)
    u = torch.einsum("ir,kcrs,js->ijkc", g_rows, weight, g_columns)
    v, u = v.unflatten(-1, (groups, -1)), u.unflatten(2, (groups, -1))
    m = torch.einsum("ijtungc,ijgkc->ijtungk", v, u).flatten(-2)
    y = torch.einsum("pi,ijtunk,qj->nktpuq", a_rows, m, a_columns)
    return y.flatten(4, 5).flatten(2, 3)


def rounding(problem: Conv2dProblem, first: Tensor, second: Tensor, addends: Tensor | float) -> Tensor:
    """The largest error of z by Winograd's convolution.

    Args:
        addends: the magnitudes of bias and residual.
    """
    channels = problem.reduction // 9 if problem.direction == "forward" else problem.terms // 9
    return (_ROUNDINGS + 2 * math.sqrt(channels)) * _UNIT * (magnitudes(problem, first, second) + addends)
