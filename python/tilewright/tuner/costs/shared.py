"""What the models of several operations share: the losses of tiles, and what CPUs and GPUs do in a second."""

from __future__ import annotations

from typing import Any

from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.triton_cost import GPU_BANDWIDTH_SHARE as GPU_BANDWIDTH_SHARE
from tilewright.kernels.triton_cost import TILE_LATENCY as TILE_LATENCY

TORCH_OP_SECONDS = 3e-6
"""An elementwise torch operator that has next to nothing to do."""

CPU_CACHE_SPEEDUP = 3.0
"""A shared last-level cache against main memory."""

VENDOR_BANDWIDTH_SHARE = 0.8

CORE_BANDWIDTH = 25e9
"""B/s that one CPU core draws."""


def ceil(size: int, step: int) -> int:
    return -(-size // step) if size > 0 else 0


def field(config: Any, name: str, default: int) -> int:
    """A size of a config, or the default where it has none that makes sense."""
    value = getattr(config, name, default)
    return value if isinstance(value, int) and value > 0 else default


def cpu_threads(problem: Any, device: DeviceSpec) -> int:
    asked = problem.threads or device.units
    return max(1, min(asked, device.units))


def cpu_bandwidth(problem: Any, device: DeviceSpec) -> float:
    """One core draws at most about 25 GB/s, all together what was measured."""
    drawn = cpu_threads(problem, device) * max(CORE_BANDWIDTH, device.bandwidth / device.units)
    return min(device.bandwidth, drawn)


def is_amd(device: DeviceSpec) -> bool:
    return any(word in device.name for word in ("AMD", "EPYC", "Ryzen"))


MKL_SHARE = 0.78
"""Of `mkl_peak`, which a product of many rows reaches."""

_FLOPS_PER_CLOCK_AVX2 = 32
_BOOST = 1.4  # clocks above the announced one


def mkl_peak(problem: Any, device: DeviceSpec) -> float:
    """FLOP/s of the whole device in MKL's fp32 products, which take the AVX2 path on AMD (torch 2.13, Zen 4, Zen 5)."""
    peak = device.peak(problem.dtype)
    return (
        min(peak, device.units * device.clock_hz * _BOOST * _FLOPS_PER_CLOCK_AVX2) if is_amd(device) else peak
    )


def gpu_peak(problem: Any, device: DeviceSpec) -> float:
    return device.peak(problem.dtype, problem.precision)


def best_of_gpu_tiles(
    rows: int, columns: int, depth: int, batch: int, rate: float, units: int, least_split: int
) -> float:
    """Seconds of a vendor's product as the best of a few tile shapes: about 0.82 of peak where they fill the device.

    Args:
        rows, columns, depth, batch: of the product; the depth is split where tiles are few and it is long.
        rate: peak FLOP/s of the device.
        units: multiprocessors.
        least_split: the shortest depth that a part may have.
    """
    best = float("inf")
    for block_m, block_n, share in ((128, 256, 0.84), (128, 128, 0.78), (64, 128, 0.68), (64, 64, 0.55)):
        tiles = batch * ceil(rows, block_m) * ceil(columns, block_n)
        split = max(1, min(units // tiles if tiles else 1, depth // least_split))
        waves = ceil(tiles * split, units)
        flops = 2.0 * block_m * block_n * ceil(depth, split)
        best = min(best, waves * flops / (rate * share / units))
    return best
