"""What a TritonConfig can run: the single statement of it, `rejects`, and the figures that it rests on.

The figures were read off kernels that Triton 3.9 compiled for sm_80, sm_90, sm_100 and sm_120;
tests/triton/test_aot.py compiles a sample again and holds them to it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from tilewright.kernels.dtypes import DTYPE_NAMES, KERNEL_DTYPES
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.triton.alignment import elementwise, stores_singles
from tilewright.kernels.matmul.triton.config import TritonConfig
from tilewright.kernels.triton_launch import cdiv
from tilewright.kernels.triton_runtime import interpreting
from tilewright.kernels.triton_tile import OLDEST_CAPABILITY, Tile, kib

_ALLOWED: dict[str, tuple[int, ...]] = {
    "block_m": (16, 32, 64, 128, 256),
    "block_n": (16, 32, 64, 128, 256),
    "block_k": (16, 32, 64, 128, 256),
    "group_m": (1, 2, 4, 8, 16),
    "num_warps": (4, 8),  # wgmma and tcgen05 need a warpgroup: 4 warps
    "num_stages": (2, 3, 4, 5, 6),  # 1 gives no pipeline, and all of a K step's operands in registers
}
_MAX_SPLIT = 64
_MAX_SIZE = 2**31 - 1024  # sizes and indices are 32-bit, and a block may reach past the end
_MAX_GRID = 2**31 - 1

# Elements that a thread reads one by one in a K step. Each holds a 64-bit address and a register at once.
_MAX_SINGLES = 48


def rejects(config: Any, problem: MatmulProblem, device: DeviceSpec) -> str | None:
    """None if `config` computes `problem` on `device`, else why not. Holds against configs from a file."""
    return (
        _malformed(config)
        or _unfit_problem(problem)
        or _unfit_device(config, problem, device)
        or _wasteful(config, problem)
    )


def shared_bytes(config: TritonConfig, problem: MatmulProblem, capability: int) -> int:
    """The most shared memory per block that the compiled kernel asks for."""
    return _tile(config, problem).shared_bytes(capability, subtiles(config, problem))


def subtiles(config: TritonConfig, problem: MatmulProblem) -> int:
    """Column ranges that the epilogue finishes one by one, so that a thread holds few addresses at once."""
    at_once = 16 if stores_singles(problem) else 32
    return max(1, min(4, _tile(config, problem).accumulators // at_once, config.block_n // 16))


def _malformed(config: Any) -> str | None:
    if not isinstance(config, TritonConfig):
        return f"config is a {type(config).__name__}, not a TritonConfig"
    if config.algorithm != "tiled":
        return f"algorithm is {config.algorithm!r}; Triton has 'tiled'"
    for name, allowed in _ALLOWED.items():
        value = getattr(config, name)
        if type(value) is not int or value not in allowed:
            return f"{name} is {value!r}; expected one of {', '.join(map(str, allowed))}"
    if type(config.split_k) is not int or not 1 <= config.split_k <= _MAX_SPLIT:
        return f"split_k is {config.split_k!r}; expected 1 to {_MAX_SPLIT}"
    return None


def _unfit_problem(problem: MatmulProblem) -> str | None:
    for role, dtype in (
        ("operand", problem.dtype),
        ("output", problem.out_dtype),
        ("bias", problem.bias_dtype),
        ("residual", problem.residual_dtype),
    ):
        if dtype is not None and dtype not in KERNEL_DTYPES:
            return f"{role} dtype is {DTYPE_NAMES.get(dtype, dtype)}; the kernel takes f32, bf16 and f16"
    if problem.activation not in ACTIVATIONS:
        return f"activation is {problem.activation!r}; the kernel has {', '.join(ACTIVATIONS)}"
    largest = max(problem.m, problem.n, problem.k)
    if largest > _MAX_SIZE:
        return f"a size of {largest} does not fit the kernel's 32-bit indices (at most {_MAX_SIZE})"
    return None


def _unfit_device(config: TritonConfig, problem: MatmulProblem, device: DeviceSpec) -> str | None:
    programs = cdiv(problem.m, config.block_m) * cdiv(problem.n, config.block_n)
    programs *= math.prod(problem.batch[-2:]) * config.split_k
    if programs > _MAX_GRID:
        return f"needs {programs} blocks, a grid has at most {_MAX_GRID}"
    if device.kind == "cpu":
        if not interpreting():
            return "Triton compiles for GPUs only; TRITON_INTERPRET=1 interprets its kernels on the CPU"
        return None
    if device.capability < OLDEST_CAPABILITY:
        return f"needs compute capability 8.0 (sm_80), the device is {device.arch}"
    shared = shared_bytes(config, problem, device.capability)
    if shared > device.shared_bytes:
        return f"needs {kib(shared)} KB of shared memory, the device has {kib(device.shared_bytes)} KB"
    return _too_many_registers(config, problem, device.capability)


def _too_many_registers(config: TritonConfig, problem: MatmulProblem, capability: int) -> str | None:
    tile = _tile(config, problem)
    unfit = tile.unfit_step()
    if unfit is not None:
        return unfit
    a_singles, b_singles = elementwise(problem)
    rows_read_singly = (config.block_m if a_singles else 0) + (config.block_n if b_singles else 0)
    read_singly = rows_read_singly * config.block_k // (32 * config.num_warps)
    if read_singly > _MAX_SINGLES:
        return (
            f"each thread would read {read_singly} elements one by one per step, {_MAX_SINGLES} fit its "
            "registers: sizes or strides are not multiples of 16 bytes"
        )
    held, most = tile.accumulators, _accumulator_limit(config, problem, capability)
    if held > most:
        return f"needs {held} registers per thread for the accumulator, {most} leave room for the rest"
    return None


def _accumulator_limit(config: TritonConfig, problem: MatmulProblem, capability: int) -> int:
    """fp32 values of the accumulator that a thread can hold beside addresses, masks and operands."""
    reads_singles = any(elementwise(problem))
    tile = _tile(config, problem)
    if not tile.on_matrix_units:
        return 32 if reads_singles else 64  # multiply-adds hold both operands in registers too
    if reads_singles or stores_singles(problem):
        return 64  # element addresses are 64-bit
    if tile.reads_shared_operands(capability):
        # A tile longer than the warps that share it, and walked across: masks and addresses add up.
        lopsided = max(config.block_m, config.block_n) > 32 * config.num_warps
        return 64 if lopsided and problem.a_layout != "row" else 128
    # mma.sync holds fragments of both operands as well; fp32 ones are twice as large.
    fragments = config.block_m + config.block_n
    too_large = problem.dtype == torch.float32 or config.block_k > 64 or fragments > 64 * config.num_warps
    return 64 if too_large else 128


def _wasteful(config: TritonConfig, problem: MatmulProblem) -> str | None:
    tiles = cdiv(problem.k, config.block_k)
    if config.split_k > max(tiles, 1):
        return f"split_k is {config.split_k}, K has only {tiles} tiles of {config.block_k}"
    return None


def _tile(config: TritonConfig, problem: MatmulProblem) -> Tile:
    return Tile(
        *(config.block_m, config.block_n, config.block_k, config.num_warps, config.num_stages),
        problem.dtype,
        problem.precision,
    )
