"""Describes the devices that a choice is made for: what is here, and what is only known from data sheets."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from dataclasses import replace
from typing import Any

import torch

from tilewright.errors import ArgumentError, DeviceError
from tilewright.kernels.interface import DeviceKind, DeviceSpec
from tilewright.tuner.log import warn_once
from tilewright.tuner.store import user_store
from tilewright.tuner.topology import Cpu, read_cpu

_CORE = "tilewright._C"

ISA_VARIABLE = "TILEWRIGHT_CPU_ISA"
ISA_LEVELS = ("portable", "avx2", "avx512")

RATES = ("peak_fp32", "peak_tf32", "peak_16bit", "bandwidth")
"""The figures that a probe replaces."""

# Starting a kernel: an OpenMP team of 4 forks and joins in 2–4 µs, a CUDA launch from Python takes about 4.
_CPU_LAUNCH_SECONDS = 3e-6
_CUDA_LAUNCH_SECONDS = 4e-6

# FLOP per clock and multiprocessor (fp32 cores; tf32 and 16-bit matrix units with fp32 accumulation, dense),
# and the most shared memory of a block. From NVIDIA's architecture white papers: Volta, Turing, Ampere GA100
# and GA102, Ada, Hopper, Blackwell. GeForce cards of sm_86, sm_89, sm_120 run the matrix units at half rate
# when they accumulate in fp32.
_CUDA_RATES: dict[int, tuple[int, int, int, int]] = {
    70: (128, 128, 1024, 96 << 10),
    75: (128, 128, 1024, 64 << 10),
    80: (128, 1024, 2048, 163 << 10),
    86: (256, 512, 1024, 99 << 10),
    87: (256, 512, 1024, 163 << 10),
    89: (256, 512, 1024, 99 << 10),
    90: (256, 2048, 4096, 227 << 10),
    100: (256, 4096, 8192, 227 << 10),
    103: (256, 4096, 8192, 227 << 10),
    120: (256, 512, 1024, 99 << 10),
    121: (256, 512, 1024, 99 << 10),
}


def _gpu(
    name: str,
    arch: str,
    units: int,
    clock_ghz: float,
    tflops: tuple[float, float, float],
    bandwidth_gb: float,
    l1_kib: int,
    l2_mib: int,
    shared_kib: int,
) -> DeviceSpec:
    fp32, tf32, half = tflops
    return DeviceSpec(
        kind="cuda",
        name=name,
        arch=arch,
        units=units,
        clock_hz=clock_ghz * 1e9,
        peak_fp32=fp32 * 1e12,
        peak_tf32=tf32 * 1e12,
        peak_16bit=half * 1e12,
        bandwidth=bandwidth_gb * 1e9,
        hypothetical=True,
        l1_bytes=l1_kib << 10,
        l2_bytes=l2_mib << 20,
        llc_bytes=l2_mib << 20,
        shared_bytes=shared_kib << 10,
        registers=65536,
        launch_seconds=_CUDA_LAUNCH_SECONDS,
    )


# Data-sheet figures, dense (without 2:4 sparsity), SXM modules where there is a choice. Sources: NVIDIA's
# data sheets "A100 80GB", "H100 Tensor Core GPU", "H200 Tensor Core GPU", "L4 Tensor Core GPU", "HGX B200"
# (per GPU), and the white paper "Ada GPU Architecture" for the RTX 4090; cache sizes from the white papers.
BUILTIN = {
    "a100": _gpu("NVIDIA A100-SXM4-80GB", "sm_80", 108, 1.41, (19.5, 156, 312), 2039, 192, 40, 163),
    "h100": _gpu("NVIDIA H100 80GB HBM3", "sm_90", 132, 1.83, (66.9, 494.7, 989.4), 3350, 256, 50, 227),
    "h200": _gpu("NVIDIA H200", "sm_90", 132, 1.83, (66.9, 494.7, 989.4), 4800, 256, 50, 227),
    "b200": _gpu("NVIDIA B200", "sm_100", 148, 1.85, (75, 1125, 2250), 7700, 256, 126, 227),
    "l4": _gpu("NVIDIA L4", "sm_89", 58, 2.04, (30.3, 60, 121), 300, 128, 48, 99),
    "rtx4090": _gpu("NVIDIA GeForce RTX 4090", "sm_89", 128, 2.52, (82.6, 82.6, 165.2), 1008, 128, 72, 99),
}


def builtin(name: str) -> DeviceSpec:
    """A device from its data sheet, to compile or choose for one that is not here.

    Raises:
        ArgumentError: for a name that is not in `BUILTIN`.
    """
    if name not in BUILTIN:
        raise ArgumentError(f"device is {name!r}; expected one of {', '.join(BUILTIN)}")
    return BUILTIN[name]


def device_key(spec: DeviceSpec) -> str:
    """What measurements are filed under. The driver is not part of it: that is provenance."""
    return f"{spec.kind}|{' '.join(spec.name.split())}|{spec.arch}|{spec.units}"


_known: dict[tuple[str, int, str], DeviceSpec] = {}
_lock = threading.Lock()


def current(kind: DeviceKind = "cpu", index: int = 0) -> DeviceSpec:
    """The device of this process, with rates that were measured here if a probe ever stored them.

    Cached: changes of affinity after the first call are not seen.

    Raises:
        ArgumentError: ``TILEWRIGHT_CPU_ISA`` names a level that is unknown or that this machine lacks.
        DeviceError: there is no such device.
    """
    key = (kind, index, os.environ.get(ISA_VARIABLE, "") if kind == "cpu" else "")
    spec = _known.get(key)
    if spec is None:
        with _lock:
            spec = _known.get(key) or _with_measured_rates(estimate(kind, index))
            _known[key] = spec
    return spec


def forget() -> None:
    """Drops the cached descriptions, so that rates measured since then are taken up."""
    with _lock:
        _known.clear()


if hasattr(os, "register_at_fork"):

    def _after_fork() -> None:
        global _lock
        _lock = threading.Lock()

    os.register_at_fork(after_in_child=_after_fork)


def estimate(kind: DeviceKind, index: int = 0) -> DeviceSpec:
    """The device with estimated rates only."""
    if kind == "cpu":
        return describe_cpu(read_cpu(), core_info())
    if kind == "cuda":
        return _describe_cuda(index)
    raise ArgumentError(f"kind is {kind!r}; expected 'cpu' or 'cuda'")


def _with_measured_rates(spec: DeviceSpec) -> DeviceSpec:
    rates = user_store().rates(device_key(spec))
    if rates is None:
        return spec
    if set(rates) != set(RATES):
        warn_once(f"stored rates of {spec.name} are not the ones expected; estimates are used instead")
        return spec
    measured: dict[str, Any] = dict(rates)
    return replace(spec, **measured, measured=True)


def core() -> Any | None:
    """The compiled module, or None where it was not built or does not load."""
    loaded = sys.modules.get(_CORE)  # asked for in every call of a layer; importing again takes 5 µs
    if loaded is not None:
        return loaded
    try:
        return importlib.import_module(_CORE)
    except ImportError:
        return None


def core_info() -> dict[str, Any] | None:
    """``_C.cpu_info()``, or None where the module is missing."""
    module = core()
    return dict(module.cpu_info()) if module is not None else None


def isa_level(supported: tuple[str, ...]) -> str:
    """The ISA level in use: the highest supported one, or a lower one that the environment asks for."""
    asked = os.environ.get(ISA_VARIABLE, "")
    if not asked:
        return max(supported, key=ISA_LEVELS.index)
    if asked not in supported:
        known = "" if asked in ISA_LEVELS else " is not an ISA level;"
        raise ArgumentError(
            f"{ISA_VARIABLE} is {asked!r};{known} this machine and build support {', '.join(supported)}; "
            "set it to one of them or unset it"
        )
    return asked


def describe_cpu(cpu: Cpu, info: dict[str, Any] | None) -> DeviceSpec:
    """A CPU's spec from what the system says of it and what ``_C.cpu_info()`` says, if it was built.

    The peaks are the machine's, whatever level the environment forces on our kernels: the vendor's code does
    not follow that variable.
    """
    levels = tuple(x for x in info["isa_levels"] if x in ISA_LEVELS) if info is not None else ()
    arch = isa_level(levels or ("portable",))
    peak = cpu.cores * cpu.clock_hz * _flops_per_clock(cpu)
    widening = 16 if "amx_bf16" in cpu.flags else 2 if "avx512_bf16" in cpu.flags else 1
    return DeviceSpec(
        kind="cpu",
        name=(str(info["model"]).strip() if info is not None else "") or cpu.model,
        arch=arch,
        units=cpu.cores,
        clock_hz=cpu.clock_hz,
        peak_fp32=peak,
        peak_tf32=peak,
        peak_16bit=peak * widening,
        # A core draws 10–20 GB/s; a socket's channels end the growth. Only a probe knows better.
        bandwidth=min(12e9 * cpu.cores, 200e9),
        l1_bytes=cpu.l1_bytes,
        l2_bytes=cpu.l2_bytes,
        llc_bytes=cpu.llc_bytes,
        launch_seconds=_CPU_LAUNCH_SECONDS if cpu.cores > 1 else 1e-6,
    )


def _flops_per_clock(cpu: Cpu) -> int:
    """fp32 FLOP per clock of one core: two fused multiply-add ports of the widest vectors."""
    if "avx512f" in cpu.flags:
        # AMD cores before Zen 5 (family 26) run a 512-bit operation as two halves.
        return 32 if cpu.vendor == "AuthenticAMD" and cpu.family < 26 else 64
    if "avx2" in cpu.flags and "fma" in cpu.flags:
        return 32
    return 16


def _describe_cuda(index: int) -> DeviceSpec:
    if not torch.cuda.is_available():
        raise DeviceError("torch sees no CUDA device; use a machine with a GPU and a CUDA build of torch")
    if not 0 <= index < torch.cuda.device_count():
        raise DeviceError(f"CUDA device {index} does not exist; torch sees {torch.cuda.device_count()}")
    properties: Any = torch.cuda.get_device_properties(index)
    return describe_cuda(properties, driver=_driver())


def describe_cuda(properties: Any, driver: str = "") -> DeviceSpec:
    """A GPU's spec from torch's device properties. An unknown architecture takes an older one's rates."""
    capability = properties.major * 10 + properties.minor
    known = max((number for number in _CUDA_RATES if number <= capability), default=min(_CUDA_RATES))
    fp32, tf32, half, shared = _CUDA_RATES[known]
    if "GeForce" in properties.name and known in (86, 89, 120):
        tf32, half = tf32 // 2, half // 2
    units = properties.multi_processor_count
    clock = float(getattr(properties, "clock_rate", 0) or 1_500_000) * 1e3  # torch reports kHz
    # The bus transfers twice per clock; without the figures, 8 bytes per clock and multiprocessor.
    memory_clock = float(getattr(properties, "memory_clock_rate", 0) or 0) * 1e3
    bus_bytes = float(getattr(properties, "memory_bus_width", 0) or 0) / 8
    sheet = next((spec for spec in BUILTIN.values() if spec.name == properties.name), None)
    bandwidth = sheet.bandwidth if sheet is not None else 2 * memory_clock * bus_bytes
    l2 = int(getattr(properties, "L2_cache_size", 0) or 4 << 20)
    rate = units * clock
    return DeviceSpec(
        kind="cuda",
        name=properties.name,
        arch=f"sm_{capability}",
        units=units,
        clock_hz=clock,
        peak_fp32=fp32 * rate,
        peak_tf32=tf32 * rate,
        peak_16bit=half * rate,
        bandwidth=bandwidth or 8.0 * rate,
        l1_bytes=int(getattr(properties, "shared_memory_per_multiprocessor", 0) or 128 << 10),
        l2_bytes=l2,
        llc_bytes=l2,
        shared_bytes=int(getattr(properties, "shared_memory_per_block_optin", 0) or shared),
        registers=int(getattr(properties, "regs_per_multiprocessor", 0) or 65536),
        launch_seconds=_CUDA_LAUNCH_SECONDS,
        driver=driver,
    )


def _driver() -> str:
    try:
        return str(vars(torch._C)["_cuda_getDriverVersion"]())  # torch's type stubs leave it out
    except (KeyError, RuntimeError):
        return ""
