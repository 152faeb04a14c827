"""What the machine can do at best in this very run: the yardstick of every fraction."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tilewright.benchmark.timing import CudaClock
from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.tuner.device import ISA_LEVELS, core

_TRIES = 8
"""Many short probes: where other processes want the cores, a long one is always disturbed."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Rates measured on `threads` threads (CPU) or the whole GPU; `how` says by what."""

    flops: float
    bandwidth: float
    how: str

    def best(self, other: Ceiling) -> Ceiling:
        """The higher of each rate: interference only ever slows a probe down."""
        return Ceiling(max(self.flops, other.flops), max(self.bandwidth, other.bandwidth), self.how)


def measure_ceiling(
    device: torch.device, dtype: torch.dtype, *, threads: int, llc_bytes: int, seconds: float = 0.3
) -> Ceiling:
    """Probes peak and bandwidth for about `seconds` each."""
    if device.type == "cuda":
        return _cuda_ceiling(device, dtype, seconds)
    module = core()
    if module is None:
        return _torch_cpu_ceiling(dtype, llc_bytes, seconds)
    level = _best_level()
    # Four times the cache, so that a quarter at most of what is read was still there.
    nbytes = min(max(4 * llc_bytes, 256 << 20), 2 << 30)
    each, name = seconds / _TRIES, DTYPE_NAMES[dtype]
    return Ceiling(
        max(module.peak_flops(level, name, threads, each) for _ in range(_TRIES)),
        max(module.read_bandwidth(threads, nbytes, each) for _ in range(_TRIES)),
        f"multiply-adds in {level} registers and reads of {nbytes >> 20} MiB, {threads} threads",
    )


def _best_level() -> str:
    """The machine's best: what the environment forces on our kernels does not lower what is possible."""
    module = core()
    levels = module.cpu_info()["isa_levels"] if module is not None else ["portable"]
    return str(max(levels, key=ISA_LEVELS.index))


def _torch_cpu_ceiling(dtype: torch.dtype, llc_bytes: int, seconds: float) -> Ceiling:
    size = 1024
    a = torch.randn(size, size).to(dtype)
    product = _best_rate(lambda: torch.mm(a, a), 2.0 * size**3, seconds)
    data = torch.randn(max(llc_bytes, 64 << 20))
    reading = _best_rate(lambda: data.sum(), 4.0 * data.numel(), seconds)
    return Ceiling(product, reading, f"torch.mm of {size}³ and torch.sum (tilewright._C is not built)")


def _best_rate(call: Callable[[], object], work: float, seconds: float) -> float:
    best, began = 0.0, time.perf_counter()
    while best == 0.0 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        best = max(best, work / (time.perf_counter() - start))
    return best


def _cuda_ceiling(device: torch.device, dtype: torch.dtype, seconds: float) -> Ceiling:
    """No public instruction-level probe: the best that cuBLAS and a device copy reach."""
    size, clock = 8192, CudaClock()
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    source = torch.empty(1 << 28, device=device, dtype=torch.float32).normal_()
    target = torch.empty_like(source)

    def product() -> None:
        torch.mm(a, b)

    def copy() -> None:
        target.copy_(source)

    flops = bandwidth = 0.0
    moved = 2.0 * source.numel() * source.itemsize
    began = time.perf_counter()
    rounds = 0
    while rounds < 5 or time.perf_counter() - began < 2 * seconds:
        flops = max(flops, 2.0 * size**3 / clock.time(product))
        bandwidth = max(bandwidth, moved / clock.time(copy))
        rounds += 1
    name = DTYPE_NAMES[dtype]
    return Ceiling(flops, bandwidth, f"cuBLAS {name} {size}³ and a copy of {source.numel() * 4 >> 20} MiB")
