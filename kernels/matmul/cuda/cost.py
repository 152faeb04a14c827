"""How long a CudaConfig should take on a problem."""

from __future__ import annotations

from tilewright.kernels.cuda_cost import tensor_core_share
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.cuda.config import CudaConfig
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.triton_cost import GPU_BANDWIDTH_SHARE, TILE_LATENCY, Product, product_seconds
from tilewright.kernels.triton_launch import cdiv
from tilewright.kernels.triton_tile import Tile


def expected_seconds(config: CudaConfig, problem: MatmulProblem, device: DeviceSpec) -> float:
    """Positive and finite; `skinny` streams the weight, every other algorithm walks tiles."""
    if config.algorithm.startswith("skinny"):
        return _streaming_seconds(config, problem, device)
    tile = Tile(
        *(config.block_m, config.block_n, config.block_k, config.num_warps, config.num_stages),
        problem.dtype,
        problem.precision,
    )
    itemsize = problem.dtype.itemsize
    product = Product(
        batch=problem.batch_count,
        rows=problem.m,
        columns=problem.n,
        steps=cdiv(problem.k, config.block_k),
        bytes=problem.bytes(),
        operand_bytes=problem.batch_count * (problem.m + problem.n) * problem.k * itemsize,
        row_bytes=problem.k * itemsize,
        column_bytes=problem.k * itemsize,
    )
    share = tensor_core_share(config.algorithm, device) if tile.on_matrix_units else 1.0
    return product_seconds(product, tile, config.split_k, config.group_m, device, share=share)


def _streaming_seconds(config: CudaConfig, problem: MatmulProblem, device: DeviceSpec) -> float:
    """Each block reads its columns of the weight once for every block_m rows."""
    rows = cdiv(problem.m, config.block_m)
    blocks = problem.batch_count * cdiv(problem.n, config.block_n) * rows * config.split_k
    filled = min(1.0, blocks / max(device.units, 1))
    reading = rows * problem.bytes() / (device.bandwidth * GPU_BANDWIDTH_SHARE * max(filled, 1e-3))
    computing = problem.flops() / (device.peak_fp32 / 2)
    return max(reading, computing) + TILE_LATENCY + device.launch_seconds
