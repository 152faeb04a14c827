"""Products with few rows or columns: both ways of streaming, every count of queries, chunks of K."""

from __future__ import annotations

import pytest
import torch

from tests.cpu.support import DTYPES, LEVELS, check, gemv, matrix, spec
from tilewright.kernels.matmul.cpu import BACKEND
from tilewright.kernels.matmul.cpu.config import GEMV_ROWS
from tilewright.kernels.matmul.problem import MatmulProblem


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["row", "col"])
def test_every_count_of_queries(isa: str, dtype: torch.dtype, layout: str) -> None:
    for few in range(1, GEMV_ROWS + 1):
        check(gemv(isa), matrix(few, 45, dtype), matrix(45, 61, dtype, layout))
        check(gemv(isa), matrix(61, 45, dtype, layout), matrix(45, few, dtype))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("layout", ["row", "col"])
@pytest.mark.parametrize("k", [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100])
def test_depth(isa: str, layout: str, k: int) -> None:
    for few, many in ((1, 1), (1, 16), (3, 17), (9, 50)):
        check(gemv(isa), matrix(few, k, torch.float32, "strided"), matrix(k, many, torch.float32, layout))
        check(gemv(isa), matrix(many, k, torch.float16, layout), matrix(k, few, torch.float16, "strided"))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("layout", ["row", "col"])
@pytest.mark.parametrize("block_k", [1, 7, 16, 64])
def test_chunks_of_k_are_summed(isa: str, layout: str, block_k: int) -> None:
    config = gemv(isa, block=16, block_k=block_k)
    bias, residual = torch.randn(50), matrix(3, 50, torch.bfloat16)
    check(config, matrix(3, 90, torch.float32), matrix(90, 50, torch.float32, layout), bias, residual)
    bias, residual = torch.randn(3), matrix(50, 3, torch.bfloat16)
    check(config, matrix(50, 90, torch.float32, layout), matrix(90, 3, torch.float32), bias, residual)
    b = matrix(90, 50, torch.float32, layout, batch=(4,))
    check(config, matrix(2, 90, torch.float32, batch=(4,)), b)


@pytest.mark.parametrize("isa", LEVELS)
def test_no_depth_leaves_the_epilogue(isa: str) -> None:
    bias, residual = torch.randn(40), torch.randn(2, 40)
    check(gemv(isa), torch.empty(2, 0), torch.empty(0, 40), bias, residual, activation="silu")


@pytest.mark.parametrize("isa", LEVELS)
def test_a_column_has_one_bias_for_all(isa: str) -> None:
    # N = 1: C is one contiguous column, which the kernel walks as a row.
    a, b = matrix(70, 33, torch.float32), matrix(33, 1, torch.float32)
    residual = matrix(70, 1, torch.float32, "strided")
    check(gemv(isa, block=32), a, b, torch.randn(1), residual, activation="gelu", keep_preact=True)


@pytest.mark.parametrize("isa", LEVELS)
def test_what_it_does_not_take(isa: str) -> None:
    def reason(a: torch.Tensor, b: torch.Tensor) -> str:
        problem = MatmulProblem.from_tensors(a, b, threads=1)
        return str(BACKEND.rejects(gemv(isa), problem, spec(isa)))

    assert "at most 16" in reason(torch.randn(17, 8), torch.randn(8, 17))
    assert "unit stride" in reason(torch.randn(2, 8), matrix(8, 20, torch.float32, "strided"))
