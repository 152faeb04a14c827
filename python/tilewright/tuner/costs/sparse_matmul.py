"""How long a product with a sparse weight should take by what torch offers."""

from __future__ import annotations

from typing import Any

import torch

from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.sparse_matmul.problem import SparseMatmulProblem
from tilewright.tuner.costs.shared import (
    CPU_CACHE_SPEEDUP,
    GPU_BANDWIDTH_SHARE,
    MKL_SHARE,
    TILE_LATENCY,
    TORCH_OP_SECONDS,
    VENDOR_BANDWIDTH_SHARE,
    best_of_gpu_tiles,
    cpu_bandwidth,
    cpu_threads,
    gpu_peak,
    mkl_peak,
)

_ONEDNN_SHARE = 0.8
_RAMP_ROWS = 8
_DECOMPRESS_PASSES = 20
"""What making the dense weight costs, in times of writing it: a mask, its running count, a scatter."""

_SPARSE_FLOPS = {"csr": 2e9, "bsr": 1.5e9}
"""FLOP/s of one core in torch's sparse products (MKL): 3e9 and 1.5e9 on AMD Zen 5, a little less to be safe."""

_SPARSE_OP_SECONDS = 25e-6


def cpu_vendor(config: Any, problem: SparseMatmulProblem, device: DeviceSpec) -> float:
    algorithm = str(getattr(config, "algorithm", ""))
    m, n, k, itemsize = problem.m, problem.n, problem.k, problem.dtype.itemsize
    threads, bandwidth = cpu_threads(problem, device), cpu_bandwidth(problem, device) * VENDOR_BANDWIDTH_SHARE
    dense_bytes = n * k * itemsize
    if algorithm in ("csr", "bsr"):
        rate = threads * _SPARSE_FLOPS[algorithm]
        seconds = max(problem.bytes() / bandwidth, problem.flops() / rate) + _SPARSE_OP_SECONDS
    else:
        share = (
            _ONEDNN_SHARE if algorithm == "dense_prepacked" or problem.dtype != torch.float32 else MKL_SHARE
        )
        peak = device.peak(problem.dtype) if share == _ONEDNN_SHARE else mkl_peak(problem, device)
        share *= max(1, m) / (m + _RAMP_ROWS)
        moved = dense_bytes + (m * k + m * n) * itemsize
        rate = peak * threads / device.units * share
        seconds = max(moved / bandwidth, problem.dense_flops() / rate)
        # x is read once more, to see whether it is finite.
        seconds += TORCH_OP_SECONDS * 3 + m * k * itemsize / (bandwidth * CPU_CACHE_SPEEDUP)
    if not problem.frozen:
        seconds += _DECOMPRESS_PASSES * dense_bytes / bandwidth
    passes = _elementwise_passes(problem)
    seconds += passes * (TORCH_OP_SECONDS + 2 * m * n * itemsize / (bandwidth * CPU_CACHE_SPEEDUP))
    return seconds + TORCH_OP_SECONDS + (device.launch_seconds if threads > 1 else 0.0)


def gpu_vendor(config: Any, problem: SparseMatmulProblem, device: DeviceSpec) -> float:
    m, n, k, itemsize = problem.m, problem.n, problem.k, problem.dtype.itemsize
    bandwidth = device.bandwidth * GPU_BANDWIDTH_SHARE
    if getattr(config, "algorithm", "") == "csr":
        # Gathers reach about a twentieth of what matrix units do.
        seconds = max(problem.bytes() / bandwidth, 20 * problem.flops() / gpu_peak(problem, device))
    else:
        best = best_of_gpu_tiles(m, n, k, 1, gpu_peak(problem, device), device.units, 512)
        moved = (n * k + m * k + m * n) * itemsize
        # Waiting for x to be found finite: a round trip to the device.
        seconds = max(best, moved / bandwidth) + TILE_LATENCY + 4 * device.launch_seconds
    if not problem.frozen:
        seconds += _DECOMPRESS_PASSES * n * k * itemsize / bandwidth
    passes = _elementwise_passes(problem)
    return (
        seconds + device.launch_seconds + passes * (2 * m * n * itemsize / bandwidth + device.launch_seconds)
    )


def _elementwise_passes(problem: SparseMatmulProblem) -> int:
    """How many operators follow the product because it does not fuse them."""
    bias = problem.bias_dtype is not None and problem.bias_dtype != problem.dtype
    active = problem.activation != "none"
    return bias + (problem.residual_dtype is not None) + active + problem.keep_preact
