"""How long a matrix product should take."""

from __future__ import annotations

from typing import Any

import torch

from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.cpu import cost as cpu_cost
from tilewright.kernels.matmul.cuda import cost as cuda_cost
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.triton_cost import Product, product_seconds
from tilewright.kernels.triton_tile import Tile
from tilewright.tuner.costs.shared import (
    CORE_BANDWIDTH,
    CPU_CACHE_SPEEDUP,
    GPU_BANDWIDTH_SHARE,
    MKL_SHARE,
    TILE_LATENCY,
    TORCH_OP_SECONDS,
    VENDOR_BANDWIDTH_SHARE,
    best_of_gpu_tiles,
    ceil,
    cpu_bandwidth,
    cpu_threads,
    field,
    gpu_peak,
    is_amd,
    mkl_peak,
)


def _sizes(problem: MatmulProblem) -> tuple[int, int, int, int]:
    return problem.m, problem.n, problem.k, problem.batch_count


def cpu(config: Any, problem: MatmulProblem, device: DeviceSpec) -> float:
    return cpu_cost.expected_seconds(config, problem, device)


# Vendor libraries on CPUs: shares of peak, measured with torch 2.13 on AMD Zen 4, where MKL's fp32 products take
# its AVX2 path; on Zen 5, with twice the peak, that is 0.25–0.3 of it. The share grows with the rows of the
# product as rows / (rows + 8). oneDNN keeps 0.77 to 0.86 of it on AMD; on other processors more is assumed, so that
# ours must earn its place. With few rows it draws 0.60 to 0.67 of the bandwidth from a prepacked weight (Zen 5).
_ONEDNN_SHARE = 0.80
_ONEDNN_SHARE_ELSEWHERE = 0.90
_ONEDNN_BANDWIDTH_SHARE = 0.70
_RAMP_ROWS = 8
_OTHER_SHARES = {torch.float64: 0.4, torch.float16: 0.2}  # of the fp32 peak, whatever the number of rows
_INTEGER_SHARE = 0.3
_ONEDNN_OP_SECONDS = 18e-6


def cpu_vendor(config: Any, problem: MatmulProblem, device: DeviceSpec) -> float:
    algorithm, layout = str(getattr(config, "algorithm", "")), getattr(config, "b_layout", "as_is")
    m, n, k, batch = _sizes(problem)
    threads = cpu_threads(problem, device)
    bandwidth = cpu_bandwidth(problem, device) * VENDOR_BANDWIDTH_SHARE
    onednn = algorithm.startswith("onednn")
    amd = is_amd(device)
    peak, share = device.peak(problem.dtype), _ONEDNN_SHARE if amd else _ONEDNN_SHARE_ELSEWHERE
    reading = bandwidth
    if onednn and amd:
        reading *= _ONEDNN_BANDWIDTH_SHARE / VENDOR_BANDWIDTH_SHARE
    if problem.dtype == torch.float32 and not onednn:
        peak, share = mkl_peak(problem, device), MKL_SHARE
        if amd:
            # With few rows it does not share the reading out over the threads: 16 GB/s of 45 on four cores.
            reading = (
                min(reading, CORE_BANDWIDTH * VENDOR_BANDWIDTH_SHARE) if m <= 2 * _RAMP_ROWS else reading
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
    seconds += elementwise * 2 * batch * m * n * problem.out_dtype.itemsize / (bandwidth * CPU_CACHE_SPEEDUP)
    seconds += _ONEDNN_OP_SECONDS if onednn else TORCH_OP_SECONDS
    return seconds + elementwise * TORCH_OP_SECONDS + (device.launch_seconds if threads > 1 else 0.0)


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


def triton(config: Any, problem: MatmulProblem, device: DeviceSpec) -> float:
    m, n, k, batch = _sizes(problem)
    itemsize = problem.dtype.itemsize
    tile = Tile(
        field(config, "block_m", 64),
        field(config, "block_n", 64),
        field(config, "block_k", 32),
        field(config, "num_warps", 4),
        field(config, "num_stages", 2),
        problem.dtype,
        problem.precision,
    )
    product = Product(
        batch=batch,
        rows=m,
        columns=n,
        steps=ceil(k, tile.block_k),
        bytes=problem.bytes(),
        operand_bytes=batch * (m + n) * k * itemsize,
        row_bytes=k * itemsize,
        column_bytes=k * itemsize,
    )
    return product_seconds(product, tile, field(config, "split_k", 1), field(config, "group_m", 1), device)


def cuda(config: Any, problem: MatmulProblem, device: DeviceSpec) -> float:
    return cuda_cost.expected_seconds(config, problem, device)


def gpu_vendor(config: Any, problem: MatmulProblem, device: DeviceSpec) -> float:
    """cuBLAS as the best of a few tile shapes: about 0.82 of peak where the tiles fill the device."""
    algorithm, layout = str(getattr(config, "algorithm", "")), getattr(config, "b_layout", "as_is")
    m, n, k, batch = _sizes(problem)
    itemsize, bandwidth = problem.dtype.itemsize, device.bandwidth * GPU_BANDWIDTH_SHARE
    peak = gpu_peak(problem, device)
    best = best_of_gpu_tiles(m, n, k, batch, peak, device.units, 512)
    seconds = max(best, problem.bytes() / bandwidth) + TILE_LATENCY + device.launch_seconds
    if layout != "as_is":
        seconds += 2 * batch * k * n * itemsize / bandwidth + device.launch_seconds
    elementwise = _elementwise_passes(algorithm, problem)
    traffic = 2 * batch * m * n * problem.out_dtype.itemsize / bandwidth
    return seconds + elementwise * (traffic + device.launch_seconds)
