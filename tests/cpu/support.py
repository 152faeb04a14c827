"""Runs one CPU kernel directly: no dispatch, no tuner, the ISA level and the config chosen by the test."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from tilewright import _C
from tilewright.kernels.frozen import FrozenOperand
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.bound import oracle
from tilewright.kernels.matmul.cpu import BACKEND, CpuConfig
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.tuner import device

LEVELS: list[str] = _C.cpu_info()["isa_levels"]
"""The ISA levels that this machine runs."""

INSTANCES = [row for row in _C.instances() if row["operation"] == "matmul" and row["isa"] in LEVELS]
_GEMM = [row for row in INSTANCES if row["algorithm"] == "gemm"]
GEMM_TILES = [(row["isa"], row["tile_m"], row["tile_n"]) for row in _GEMM if row["compute"] == "f32"]
"""(isa, tile_m, tile_n) of the tiles that multiply in fp32."""

BF16_TILES = [(row["isa"], row["tile_m"], row["tile_n"]) for row in _GEMM if row["compute"] == "bf16"]
"""The same of those that multiply bf16 pairs; only on processors that do."""

if "avx512bf16" not in _C.cpu_info()["features"]:
    BF16_TILES = []

PACKS = ("private", "shared", "frozen")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def spec(level: str) -> DeviceSpec:
    return dataclasses.replace(device.current("cpu"), arch=level)


def run(
    config: CpuConfig,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """The result of one launch, after the config was accepted for the problem."""
    options.setdefault("threads", 2)
    options.setdefault("frozen_b", config.pack_b == "frozen")
    problem = MatmulProblem.from_tensors(a, b, bias, residual, **options)
    assert BACKEND.rejects(config, problem, spec(config.isa)) is None
    operand = FrozenOperand(b) if config.pack_b == "frozen" else b
    result: Tensor | tuple[Tensor, Tensor] = BACKEND.bind(config, problem)(a, operand, bias, residual)
    return result


def check(
    config: CpuConfig,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    **options: Any,
) -> None:
    """Runs and compares with float64, under the bound that tuning uses too."""
    options.setdefault("threads", 2)
    options.setdefault("frozen_b", config.pack_b == "frozen")
    problem = MatmulProblem.from_tensors(a, b, bias, residual, **options)
    result = run(config, a, b, bias, residual, **options)
    outputs = result if isinstance(result, tuple) else (result,)
    verdict = oracle(problem, (a, b, bias, residual))(outputs)
    assert verdict is None, f"{config} on {problem.describe()}: {verdict}"


def matrix(
    rows: int, cols: int, dtype: torch.dtype, layout: str = "row", batch: tuple[int, ...] = ()
) -> Tensor:
    if layout == "row":
        return torch.randn(*batch, rows, cols).to(dtype)
    if layout == "col":
        return torch.randn(*batch, cols, rows).to(dtype).mT
    assert layout == "strided"
    return torch.randn(*batch, 2 * rows, 3 * cols).to(dtype)[..., ::2, ::3]


def gemm(isa: str, tile_m: int, tile_n: int, **fields: Any) -> CpuConfig:
    sizes = {"block_m": 2 * tile_m, "block_n": 2 * tile_n, "block_k": 64, "parts_n": 2, **fields}
    return CpuConfig("gemm", isa, tile_m=tile_m, tile_n=tile_n, **sizes)


def gemv(isa: str, block: int = 64, block_k: int = 1 << 16) -> CpuConfig:
    return CpuConfig("gemv", isa, block_m=block, block_n=block, block_k=block_k)
