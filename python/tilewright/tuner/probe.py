"""Measures a device's peaks and bandwidth, for the user's store. Runs only when asked to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from tilewright.errors import DeviceError
from tilewright.kernels.interface import DeviceSpec
from tilewright.tuner import device as devices
from tilewright.tuner.store import user_store

_PROBE_SECONDS = 0.03
_TRIES = 6
"""Many short probes: on a shared machine, a long one is always disturbed."""

_ALL_CORES_SHARE = 0.7  # of the clock that one core reaches while the others rest


def measure(spec: DeviceSpec, index: int = 0) -> DeviceSpec:
    """Probes the rates of a device of this machine and stores them; takes a few seconds.

    Later processes find them in the store, and ``device.current`` returns them with ``measured=True``.

    Raises:
        DeviceError: on CPUs, the compiled module that holds the probes is missing.
    """
    rates = _cpu_rates(spec) if spec.kind == "cpu" else _cuda_rates(index)
    user_store().put_rates(devices.device_key(spec), rates)
    devices.forget()
    return devices.current(spec.kind, index)


def _best(*probes: Callable[[], float]) -> list[float]:
    """The highest rate of each probe: interference only ever slows one down.

    They take turns, so that a burst of other work spoils some tries of all and not all tries of one.
    """
    best = [0.0] * len(probes)
    for _ in range(_TRIES):
        best = [max(rate, probe()) for rate, probe in zip(best, probes, strict=True)]
    return best


def _cpu_rates(spec: DeviceSpec) -> dict[str, float]:
    module = devices.core()
    if module is None:
        raise DeviceError(
            "the probes of peak and bandwidth are in tilewright's compiled module, which is missing; "
            "install tilewright with a C++ compiler present"
        )
    levels = [level for level in module.cpu_info()["isa_levels"] if level in devices.ISA_LEVELS]
    # The peaks are the machine's, whatever level the environment forces on our kernels.
    isa = max(levels, key=devices.ISA_LEVELS.index)
    size = max(4 * spec.llc_bytes, 128 << 20)

    def multiply(dtype: str, threads: int) -> float:
        try:
            return float(module.peak_flops(isa, dtype, threads, _PROBE_SECONDS))
        except (RuntimeError, ValueError):  # this processor has no instructions for it
            return 0.0

    fp32, fp32_core, half, half_core, bandwidth, bandwidth_core, torch_half, torch_half_core = _best(
        lambda: multiply("f32", spec.units),
        lambda: multiply("f32", 1),
        lambda: multiply("bf16", spec.units),
        lambda: multiply("bf16", 1),
        lambda: float(module.read_bandwidth(spec.units, size, _PROBE_SECONDS)),
        lambda: float(module.read_bandwidth(1, size, _PROBE_SECONDS)),
        lambda: _cpu_product_rate(torch.bfloat16, spec.units),
        lambda: _cpu_product_rate(torch.bfloat16, 1),
    )
    # On a busy machine a team of threads always waits for one of them, and the rate of the team is a fraction
    # of the truth. It is no less than this share of one core's rate on each; nor is a 16-bit peak less than
    # what torch's product reaches (AMX has no probe of ours).
    every_core = _ALL_CORES_SHARE * spec.units
    fp32 = max(fp32, every_core * fp32_core)
    half = max(half, every_core * max(half_core, torch_half_core), torch_half, fp32)
    bandwidth = max(bandwidth, bandwidth_core)
    return {"peak_fp32": fp32, "peak_tf32": fp32, "peak_16bit": half, "bandwidth": bandwidth}


def _cpu_product_rate(dtype: torch.dtype, threads: int, size: int = 512) -> float:
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    ambient = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.mm(a, b)
        begin = time.perf_counter()
        torch.mm(a, b)
        return 2.0 * size**3 / (time.perf_counter() - begin)
    finally:
        torch.set_num_threads(ambient)


def _cuda_rates(index: int) -> dict[str, float]:
    settings: Any = torch.backends.cuda.matmul
    ambient = settings.fp32_precision
    with torch.cuda.device(index):
        try:
            settings.fp32_precision = "ieee"
            (fp32,) = _best(lambda: _product_rate(torch.float32, 4096))
            settings.fp32_precision = "tf32"
            (tf32,) = _best(lambda: _product_rate(torch.float32, 8192))
        finally:
            settings.fp32_precision = ambient
        half, bandwidth = _best(lambda: _product_rate(torch.bfloat16, 8192), _copy_rate)
    return {"peak_fp32": fp32, "peak_tf32": max(tf32, fp32), "peak_16bit": half, "bandwidth": bandwidth}


def _product_rate(dtype: torch.dtype, size: int) -> float:
    a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    seconds = _cuda_seconds(lambda: torch.mm(a, b, out=out))
    # The vendor's product reaches about 0.85 of what the units can do; the peak is what the units can do.
    return 2.0 * size**3 / seconds / 0.85


def _copy_rate() -> float:
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2.0 * source.numel() / _cuda_seconds(lambda: target.copy_(source))


def _cuda_seconds(work: Callable[[], Any]) -> float:
    """Per call, warmed up, over enough calls to fill the probe's time."""
    work()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    calls = max(1, int(_PROBE_SECONDS / max(time.perf_counter() - begin, 1e-6)))
    begin = time.perf_counter()
    for _ in range(calls):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / calls
