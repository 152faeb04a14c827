"""How long a tiled product takes on a GPU, from its sizes and the device's rates alone.

A roofline with the losses that tiles cause: padding of ragged edges, the last wave of tiles that fills only part of
the device, operands that are read again for every tile, and what splitting the sum adds. Nothing here imports Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.triton_launch import cdiv
from tilewright.kernels.triton_tile import Tile

GPU_BANDWIDTH_SHARE = 0.9
TILE_LATENCY = 1.5e-6
"""The first loads of a tile before its first product, and its epilogue."""
_L2_BYTES_PER_CLOCK = 64  # per multiprocessor; DeepGEMM's heuristic for sm_90
_L2_BYTES_PER_CLOCK_AT_MOST = 6154
_MEMORY_LATENCY = 0.8e-6
_FULL_TILE = {"tensor": 128 * 256, "fp32": 128 * 128}
"""The tile that reaches the best efficiency; smaller ones load more operands per product."""


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` products of rows × depth by depth × columns, whose padded sum takes `steps` steps of a tile."""

    batch: int
    rows: int
    columns: int
    steps: int
    bytes: int  # the least that main memory must move
    operand_bytes: int  # of all operands: what has to fit in L2 for each to be read from memory once
    row_bytes: float  # that main memory reads for a row of the left operand, if not
    column_bytes: float  # the same for a column of the right one


def product_seconds(
    product: Product,
    tile: Tile,
    split: int,
    group: int,
    device: DeviceSpec,
    share: float = 1.0,
    step_latency: float = 0.0,
) -> float:
    """The time of one launch, and of the second that adds the parts of a split sum.

    Args:
        share: of the throughput that loads of 16-byte vectors reach, what this kernel's do.
        step_latency: from asking for a step's operands to having them, in seconds; stages hide it.
    """
    if min(product.rows, product.columns, product.batch) == 0:
        return device.launch_seconds
    itemsize, tensor = tile.dtype.itemsize, tile.on_matrix_units
    block_m, block_n = tile.block_m, tile.block_n
    row_tiles, column_tiles = cdiv(product.rows, block_m), cdiv(product.columns, block_n)
    tiles = product.batch * row_tiles * column_tiles * split
    depth = cdiv(product.steps, split) * tile.block_k

    # Occupancy: blocks that share a multiprocessor, limited by shared memory, registers and threads.
    stage = (block_m + block_n) * tile.block_k * itemsize
    shared = max(1, tile.num_stages * stage)
    registers = block_m * block_n + tile.num_warps * 32 * 40
    resident = min(
        max(1, (device.shared_bytes or shared) // shared),
        max(1, (device.registers or 65536) // registers),
        max(1, 64 // tile.num_warps),
    )
    slots = device.units * resident
    waves = cdiv(tiles, slots)

    # Compute: every block of a wave has its share of a multiprocessor.
    full = _FULL_TILE["tensor" if tensor else "fp32"]
    efficiency = 0.8 * share * min(1.0, (block_m * block_n / full) ** 0.2)
    # More accumulators than registers hold.
    efficiency *= min(1.0, tile.num_warps * 32 * 160 / (block_m * block_n))
    if tile.num_stages < 2:
        efficiency *= 0.6  # loads and products take turns
    if tensor and block_m < 64 and device.capability >= 90:
        efficiency *= 0.6  # below 64 rows Triton falls back from wgmma to mma.sync
    sharing = min(resident, cdiv(tiles, device.units))
    peak = device.peak(tile.dtype, tile.precision)
    per_block = peak * efficiency / (device.units * sharing)
    compute = waves * 2.0 * block_m * block_n * depth / per_block

    # Through L2 every tile loads its operands; from memory each wave loads the panels that its tiles share.
    l2_rate = min(_L2_BYTES_PER_CLOCK * device.units, _L2_BYTES_PER_CLOCK_AT_MOST) * device.clock_hz
    cached = tiles * (block_m + block_n) * depth * itemsize / l2_rate
    group = min(group, row_tiles)
    wave_tiles = min(tiles, slots)
    panels = (
        group * block_m * product.row_bytes + max(1.0, wave_tiles / group) * block_n * product.column_bytes
    ) / split
    fits = product.operand_bytes <= device.l2_bytes
    traffic = product.bytes if fits else max(product.bytes, waves * panels)
    # Little's law: bytes in flight per latency bound the bandwidth that few blocks can draw.
    in_flight = wave_tiles * max(1, tile.num_stages - 1) * stage
    bandwidth = min(device.bandwidth * GPU_BANDWIDTH_SHARE, in_flight / _MEMORY_LATENCY)
    memory = traffic / bandwidth

    waiting = waves * cdiv(product.steps, split) * step_latency / max(1, tile.num_stages - 1)

    seconds: float = max(compute, cached, memory, waiting) + TILE_LATENCY + device.launch_seconds
    if split > 1:
        seconds += split_seconds(product.batch * product.rows * product.columns, split, device)
    return seconds


def split_seconds(outputs: int, split: int, device: DeviceSpec) -> float:
    """Writing and reading the fp32 parts of `outputs` sums, and the launch that adds them."""
    partial = split * outputs * 4
    rate = device.bandwidth * GPU_BANDWIDTH_SHARE
    return 2 * partial / rate + device.launch_seconds
