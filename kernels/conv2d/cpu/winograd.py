"""What the Winograd kernels can run and how much memory they take: the sizes of ``Layout`` in winograd.cpp."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.winograd import POINTS, TILE, admitted, transforms
from tilewright.kernels.cpu import LANES, PANEL_VECTORS

ALGORITHMS = ("winograd_fused", "winograd_phased")

POSITIONS = POINTS * POINTS
RUN_TILES = 7
"""The most tiles that are transformed one after the other: ``kRunTiles``."""

_LINE = 16  # floats
_APART = 64  # floats between areas of scratch memory


def refusal(problem: Conv2dProblem) -> str | None:
    """Why Winograd's convolution is not for the problem, if it is not."""
    if not transforms(problem):
        return (
            "winograd takes 3x3 kernels with stride 1 and dilation 1, and computes forward and input_gradient"
        )
    if not admitted(problem):
        return (
            "winograd errs more than a plain sum where values of very different size meet in a tile; "
            "tilewright.options(precision='tf32') admits it"
        )
    return None


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of a launch, the blocks they are cut into, and the sizes of their matrices in floats."""

    tiles_h: int
    tiles_w: int
    tiles: int  # of all images
    edge_h: int  # outputs of the tiles of the last row
    edge_w: int
    block: int
    blocks: int
    position: int  # of a block's transformed patches: one of 36 matrices
    panels: int  # of one group's output channels
    sums: int  # of a panel and a block: all 36 matrices
    panel: int  # output channels

    @classmethod
    def of(
        cls, isa: str, batch: int, out_size: tuple[int, int], channels: int, outputs: int, block: int
    ) -> Tiling:
        """
        Args:
            out_size: height and width of the images that are computed.
            channels, outputs: of one group: those that are summed over, those that are computed.
            block: how many tiles a block has at most.
        """
        height, width = (max(size, 1) for size in out_size)
        tiles_h, tiles_w = _ceil(height, TILE), _ceil(width, TILE)
        tiles = max(batch, 1) * tiles_h * tiles_w
        blocks = _ceil(tiles, min(max(block, 1), tiles))
        block = _ceil(tiles, blocks)
        lanes = LANES[isa]
        row = _ceil(channels, lanes) * lanes
        if row % 128 == 0:
            row += _LINE
        panel = PANEL_VECTORS * lanes
        return cls(
            tiles_h=tiles_h,
            tiles_w=tiles_w,
            tiles=tiles,
            edge_h=height - (tiles_h - 1) * TILE,
            edge_w=width - (tiles_w - 1) * TILE,
            block=block,
            blocks=blocks,
            position=_apart(block * row),
            panels=_ceil(max(outputs, 1), panel),
            sums=POSITIONS * _apart(block * panel),
            panel=panel,
        )

    @property
    def patches_bytes(self) -> int:
        """Of a block's transformed patches."""
        return 4 * POSITIONS * self.position

    @property
    def positions(self) -> float:
        """How many positions a tile has, on average: those in the last row and column have fewer."""
        rows = POINTS - (TILE - self.edge_h) / self.tiles_h
        columns = POINTS - (TILE - self.edge_w) / self.tiles_w
        return rows * columns


def weight_bytes(tiling: Tiling, channels: int, groups: int) -> int:
    """Of the transformed weight."""
    return 4 * groups * tiling.panels * POSITIONS * _apart(channels * tiling.panel)


def workspace_bytes(
    tiling: Tiling, *, phased: bool, block_n: int, channels: int, groups: int, threads: int, frozen: bool
) -> int:
    """An upper bound of the scratch memory of a launch."""
    lanes = tiling.panel // PANEL_VECTORS
    group = max(1, min(block_n // tiling.panel, tiling.panels))
    outputs = TILE * RUN_TILES * TILE * tiling.panel
    patches = POINTS * (RUN_TILES * TILE + 2) * 2 * lanes
    own = tiling.patches_bytes * (0 if phased else 1) + 4 * (group * tiling.sums + max(outputs, patches))
    shared = tiling.patches_bytes * groups * tiling.blocks if phased else 0
    weight = 0 if frozen else weight_bytes(tiling, channels, groups)
    return threads * (own + 4 * 3 * _APART) + shared + weight + 4 * 3 * _APART


def _apart(floats: int) -> int:
    lines = _ceil(floats, _LINE)
    return (lines + 1 if lines % 2 == 0 else lines) * _LINE


def _ceil(size: int, step: int) -> int:
    return -(-size // step)
