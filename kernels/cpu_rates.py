"""What a CPU does in a second, as far as cost models need it: pure functions of its description."""

from __future__ import annotations

from tilewright.kernels.interface import DeviceSpec

_FLOPS_PER_CLOCK = {"avx512": 64, "avx2": 32, "portable": 8}
"""The most that one core does with a level's instructions; the device's peaks are those of its best level."""

_BOOST = 1.4  # clocks above the announced one
_CORE_BANDWIDTH = 25e9  # B/s that one core draws from memory
_BANDWIDTH = 0.9  # of the measured one
_CACHED = 3.0  # times faster than main memory: a shared last-level cache
_CALL = 1e-6


def multiply_adds(device: DeviceSpec, isa: str, compute: str) -> float:
    """Multiply-adds of fp32 lanes in a second, on one core."""
    peak = device.peak_16bit if compute == "bf16" else device.peak_fp32
    level = device.clock_hz * _BOOST * _FLOPS_PER_CLOCK.get(isa, 8)
    return min(peak / device.units, level * (2 if compute == "bf16" else 1)) / 2


def bandwidth(device: DeviceSpec, threads: int, resident: float) -> float:
    """B/s for all threads: from memory, or faster where `resident` bytes stay in the last-level cache."""
    drawn = min(device.bandwidth, threads * max(_CORE_BANDWIDTH, device.bandwidth / device.units))
    return drawn * (_CACHED if resident < device.llc_bytes / 2 else _BANDWIDTH)


def overlapped(one: float, other: float, hidden: float) -> float:
    """The time of two things of which the shorter hides behind the longer, for a share `hidden` of it."""
    return max(one, other) + (1 - hidden) * min(one, other)


def start(device: DeviceSpec, threads: int) -> float:
    """Seconds before a launch on so many threads begins."""
    return _CALL + (device.launch_seconds if threads > 1 else 0.0)
