"""How long a config should take, from the device's rates and the problem's sizes alone.

Pure functions: nothing is measured, imported or remembered. The model ranks candidates before they are timed,
and decides alone where nothing was tuned; there, one of our kernels is taken only if it is predicted to be
faster than the vendor's by `MARGIN`.

Every model is a roofline with the losses that tile sizes cause: padding of ragged edges, the last wave of
tiles that fills only part of the device, operands that are read again for every tile, and what splitting K
adds. Constants are named and say where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.cpu import cost as cpu_cost
from tilewright.kernels.matmul.problem import MatmulProblem

MARGIN = 1.1
"""How many times faster than the vendor's code ours must be predicted before it runs untuned."""

UNTUNED_LAST_RESORT = "reference"
"""The backend that is chosen only if no other runs the problem."""

Model = Callable[[Any, Any, DeviceSpec], float]


def expected_seconds(operation: str, backend: str, config: Any, problem: Any, device: DeviceSpec) -> float:
    """The predicted time of one call: positive, finite, and the same for the same arguments."""
    model = _MODELS.get((operation, backend, device.kind)) or _DEFAULTS.get(backend, _roofline)
    seconds: float = max(model(config, problem, device), device.launch_seconds, 1e-9)
    return seconds


def _roofline(config: Any, problem: Any, device: DeviceSpec) -> float:
    """Half of what the hardware could do: for backends that no model describes."""
    compute: float = 2 * problem.flops() / device.peak_fp32
    return max(compute, 2 * float(problem.bytes()) / device.bandwidth) + device.launch_seconds


def _reference(config: Any, problem: Any, device: DeviceSpec) -> float:
    """float64 through several passes over widened copies."""
    return 50 * _roofline(config, problem, device) + 50e-6


def _interpreted(config: Any, problem: Any, device: DeviceSpec) -> float:
    """Triton's interpreter runs every block of every tile in Python."""
    return 10 * _reference(config, problem, device) + 0.1


def _ceil(size: int, step: int) -> int:
    return -(-size // step) if size > 0 else 0


def _sizes(problem: MatmulProblem) -> tuple[int, int, int, int]:
    return problem.m, problem.n, problem.k, problem.batch_count


def _field(config: Any, name: str, default: int) -> int:
    value = getattr(config, name, default)
    return value if isinstance(value, int) and value > 0 else default


# CPU

_FLOPS_PER_CLOCK_AVX2 = 32
_BOOST = 1.4  # clocks above the announced one
_CORE_BANDWIDTH = 25e9
_CPU_CACHE_SPEEDUP = 3.0  # a shared last-level cache against main memory


def _threads(problem: MatmulProblem, device: DeviceSpec) -> int:
    asked = problem.threads or device.units
    return max(1, min(asked, device.units))


def _cpu_bandwidth(problem: MatmulProblem, device: DeviceSpec) -> float:
    """One core draws at most about 25 GB/s, all together what was measured."""
    return min(
        device.bandwidth, _threads(problem, device) * max(_CORE_BANDWIDTH, device.bandwidth / device.units)
    )


def _cpu_matmul(config: Any, problem: MatmulProblem, device: DeviceSpec) -> float:
    return cpu_cost.expected_seconds(config, problem, device)


# Vendor libraries on CPUs: shares of peak, measured with torch 2.13 on AMD Zen 4, where MKL's fp32 products take
# its AVX2 path; on Zen 5, with twice the peak, that is 0.25–0.3 of it. The share grows with the rows of the
# product as rows / (rows + 8). oneDNN keeps 0.77 to 0.86 of it on AMD; on other processors more is assumed, so that
# ours must earn its place. With few rows it draws 0.60 to 0.67 of the bandwidth from a prepacked weight (Zen 5).
_MKL_SHARE = 0.78
_ONEDNN_SHARE = 0.80
_ONEDNN_SHARE_ELSEWHERE = 0.90
_ONEDNN_BANDWIDTH_SHARE = 0.70
_RAMP_ROWS = 8
_OTHER_SHARES = {torch.float64: 0.4, torch.float16: 0.2}  # of the fp32 peak, whatever the number of rows
_INTEGER_SHARE = 0.3
_TORCH_OP_SECONDS = 3e-6
_ONEDNN_OP_SECONDS = 18e-6
_VENDOR_BANDWIDTH_SHARE = 0.8


def _cpu_vendor(config: Any, problem: MatmulProblem, device: DeviceSpec) -> float:
    algorithm, layout = str(getattr(config, "algorithm", "")), getattr(config, "b_layout", "as_is")
    m, n, k, batch = _sizes(problem)
    threads = _threads(problem, device)
    bandwidth = _cpu_bandwidth(problem, device) * _VENDOR_BANDWIDTH_SHARE
    onednn = algorithm.startswith("onednn")
    amd = any(word in device.name for word in ("AMD", "EPYC", "Ryzen"))
    peak, share = device.peak(problem.dtype), _ONEDNN_SHARE if amd else _ONEDNN_SHARE_ELSEWHERE
    reading = bandwidth
    if onednn and amd:
        reading *= _ONEDNN_BANDWIDTH_SHARE / _VENDOR_BANDWIDTH_SHARE
    if problem.dtype == torch.float32 and not onednn:
        share = _MKL_SHARE
        if amd:
            peak = min(peak, device.units * device.clock_hz * _BOOST * _FLOPS_PER_CLOCK_AVX2)
            # With few rows it does not share the reading out over the threads: 16 GB/s of 45 on four cores.
            reading = (
                min(reading, _CORE_BANDWIDTH * _VENDOR_BANDWIDTH_SHARE) if m <= 2 * _RAMP_ROWS else reading
            )
    rows = max(1, min(m, n))
    share *= rows / (rows + _RAMP_ROWS)
    if problem.dtype not in (torch.float32, torch.bfloat16) and not onednn:
        peak, share = device.peak_fp32, _OTHER_SHARES.get(problem.dtype, _INTEGER_SHARE)
    rate = peak * threads / device.units * share
    seconds = max(problem.bytes() / reading, problem.flops() / rate)
    kept = problem.frozen_b and layout != "as_is"
    reordered = onednn and algorithm != "onednn_prepacked" and problem.b_layout != "col"
    if not kept and (layout != "as_is" or reordered):
        # B is copied into another order: read, written, and read again out of order.
        seconds += 3 * batch * k * n * problem.dtype.itemsize / bandwidth
    elif algorithm != "onednn_prepacked" and (onednn or problem.dtype == torch.bfloat16):
        # oneDNN, which computes torch's bf16 products too, reorders a plain weight on every call.
        seconds += batch * k * n * problem.dtype.itemsize / bandwidth
    elementwise = _elementwise_passes(algorithm, problem)
    seconds += elementwise * 2 * batch * m * n * problem.out_dtype.itemsize / (bandwidth * _CPU_CACHE_SPEEDUP)
    seconds += _ONEDNN_OP_SECONDS if onednn else _TORCH_OP_SECONDS
    return seconds + elementwise * _TORCH_OP_SECONDS + (device.launch_seconds if threads > 1 else 0.0)


def _elementwise_passes(algorithm: str, problem: MatmulProblem) -> int:
    """How many operators follow the product because it does not fuse them."""
    bias = problem.bias_dtype is not None
    residual = problem.residual_dtype is not None
    active = problem.activation != "none"
    if algorithm == "addmm_activation" or algorithm.startswith("onednn"):
        bias, active = False, active and (residual or problem.keep_preact)
    elif algorithm in ("linear", "addmm"):
        residual = residual and (bias or algorithm == "linear")
        bias = False
    return bias + residual + active + (problem.out_dtype != problem.dtype) + problem.keep_preact


# CUDA devices

_L2_BYTES_PER_CLOCK = 64  # per multiprocessor; DeepGEMM's heuristic for sm_90
_L2_BYTES_PER_CLOCK_AT_MOST = 6154
_MEMORY_LATENCY = 0.8e-6
_TILE_LATENCY = 1.5e-6  # first loads of a tile before its first product, and its epilogue
_GPU_BANDWIDTH_SHARE = 0.9
_FULL_TILE = {"tensor": 128 * 256, "fp32": 128 * 128}
"""The tile that reaches the best efficiency; smaller ones load more operands per product."""


def _gpu_peak(problem: MatmulProblem, device: DeviceSpec) -> float:
    return device.peak(problem.dtype, problem.precision)


def _triton_matmul(config: Any, problem: MatmulProblem, device: DeviceSpec) -> float:
    m, n, k, batch = _sizes(problem)
    itemsize = problem.dtype.itemsize
    block_m, block_n = _field(config, "block_m", 64), _field(config, "block_n", 64)
    block_k, split_k = _field(config, "block_k", 32), _field(config, "split_k", 1)
    warps, stages, group_m = (
        _field(config, "num_warps", 4),
        _field(config, "num_stages", 2),
        _field(config, "group_m", 1),
    )
    if min(m, n, batch) == 0:
        return device.launch_seconds
    rows, columns = _ceil(m, block_m), _ceil(n, block_n)
    tiles = batch * rows * columns * split_k
    depth = _ceil(_ceil(k, split_k), block_k) * block_k

    # Occupancy: blocks that share a multiprocessor, limited by shared memory, registers and threads.
    stage = (block_m + block_n) * block_k * itemsize
    shared = max(1, stages * stage)
    registers = block_m * block_n + warps * 32 * 40
    resident = min(
        max(1, (device.shared_bytes or shared) // shared),
        max(1, (device.registers or 65536) // registers),
        max(1, 64 // warps),
    )
    slots = device.units * resident
    waves = _ceil(tiles, slots)

    # Compute: every block of a wave has its share of a multiprocessor.
    tensor = problem.dtype != torch.float32 or problem.precision == "tf32"
    full = _FULL_TILE["tensor" if tensor else "fp32"]
    efficiency = 0.8 * min(1.0, (block_m * block_n / full) ** 0.2)
    efficiency *= min(1.0, warps * 32 * 160 / (block_m * block_n))  # more accumulators than registers hold
    if stages < 2:
        efficiency *= 0.6  # loads and products take turns
    if tensor and block_m < 64 and device.capability >= 90:
        efficiency *= 0.6  # below 64 rows Triton falls back from wgmma to mma.sync
    sharing = min(resident, _ceil(tiles, device.units))
    per_block = _gpu_peak(problem, device) * efficiency / (device.units * sharing)
    compute = waves * 2.0 * block_m * block_n * depth / per_block

    # Through L2 every tile loads its operands; from memory each wave loads the panels that its tiles share.
    l2_rate = min(_L2_BYTES_PER_CLOCK * device.units, _L2_BYTES_PER_CLOCK_AT_MOST) * device.clock_hz
    cached = tiles * (block_m + block_n) * depth * itemsize / l2_rate
    group = min(group_m, rows)
    wave_tiles = min(tiles, slots)
    panels = (group * block_m + max(1.0, wave_tiles / group) * block_n) * depth * itemsize
    fits = batch * (m + n) * k * itemsize <= device.l2_bytes
    traffic = problem.bytes() if fits else max(problem.bytes(), waves * panels)
    # Little's law: bytes in flight per latency bound the bandwidth that few blocks can draw.
    in_flight = wave_tiles * max(1, stages - 1) * stage
    bandwidth = min(device.bandwidth * _GPU_BANDWIDTH_SHARE, in_flight / _MEMORY_LATENCY)
    memory = traffic / bandwidth

    seconds: float = max(compute, cached, memory) + _TILE_LATENCY + device.launch_seconds
    if split_k > 1:
        partial = split_k * batch * m * n * 4
        seconds += 2 * partial / (device.bandwidth * _GPU_BANDWIDTH_SHARE) + device.launch_seconds
    return seconds


def _gpu_vendor(config: Any, problem: MatmulProblem, device: DeviceSpec) -> float:
    """cuBLAS as the best of a few tile shapes: about 0.82 of peak where the tiles fill the device."""
    algorithm, layout = str(getattr(config, "algorithm", "")), getattr(config, "b_layout", "as_is")
    m, n, k, batch = _sizes(problem)
    itemsize, bandwidth = problem.dtype.itemsize, device.bandwidth * _GPU_BANDWIDTH_SHARE
    peak = _gpu_peak(problem, device)
    best = math.inf
    for block_m, block_n, share in ((128, 256, 0.84), (128, 128, 0.78), (64, 128, 0.68), (64, 64, 0.55)):
        tiles = batch * _ceil(m, block_m) * _ceil(n, block_n)
        # cuBLAS splits K where tiles are few and K is long.
        split = max(1, min(device.units // tiles if tiles else 1, k // 512))
        waves = _ceil(tiles * split, device.units)
        flops = 2.0 * block_m * block_n * _ceil(k, split)
        best = min(best, waves * flops / (peak * share / device.units))
    seconds = max(best, problem.bytes() / bandwidth) + _TILE_LATENCY + device.launch_seconds
    if layout != "as_is":
        seconds += 2 * batch * k * n * itemsize / bandwidth + device.launch_seconds
    elementwise = _elementwise_passes(algorithm, problem)
    traffic = 2 * batch * m * n * problem.out_dtype.itemsize / bandwidth
    return seconds + elementwise * (traffic + device.launch_seconds)


_MODELS: dict[tuple[str, str, str], Model] = {
    ("matmul", "cpu", "cpu"): _cpu_matmul,
    ("matmul", "aten", "cpu"): _cpu_vendor,
    ("matmul", "triton", "cuda"): _triton_matmul,
    ("matmul", "aten", "cuda"): _gpu_vendor,
}
_DEFAULTS: dict[str, Model] = {UNTUNED_LAST_RESORT: _reference, "triton": _interpreted}
