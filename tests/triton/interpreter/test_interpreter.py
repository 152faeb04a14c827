"""The Triton kernels of matmul, interpreted: indexing, masks, epilogues, split-K, launches."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.reference import matmul_float64
from tilewright.kernels.matmul.triton import BACKEND
from tilewright.kernels.matmul.triton.config import TritonConfig

CPU = DeviceSpec("cpu", "any", "portable", 2, 1e9, 1e9, 1e9, 1e9, 1e9, 1 << 15, 1 << 20, 1 << 24)
SMALL = TritonConfig("tiled", 16, 32, 16, 2, 1, 4, 3)

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def check(
    config: TritonConfig,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Runs the kernel and compares each element with float64, within the error that its sum may have."""
    problem = MatmulProblem.from_tensors(a, b, bias, residual, **options)
    assert BACKEND.rejects(config, problem, CPU) is None
    result = BACKEND.bind(config, problem)(a, b, bias, residual)
    y, preact = result if problem.keep_preact else (result, None)
    want, want_preact = matmul_float64(a, b, bias, residual, problem.activation)
    magnitude = matmul_float64(
        a.abs(), b.abs(), None if bias is None else bias.abs(), None if residual is None else residual.abs()
    )[0]
    sums = (problem.k + 4) * 2.0**-24 * magnitude
    for got, expected in ((y, want), (preact, want_preact)):
        if got is None:
            continue
        assert got.shape == expected.shape == torch.Size(problem.out_shape)
        assert got.dtype == problem.out_dtype
        assert got.is_contiguous()
        # 1.2: no activation here is steeper. The rest: one rounding, and exp and erf in fp32.
        bound = 1.2 * sums + UNIT_ROUNDOFF[problem.out_dtype] * expected.abs() + 1e-6 * (1 + magnitude)
        error = (got.double() - expected).abs()
        assert bool((error <= bound).all()), f"{problem.describe()}: {(error / bound).max():.2f} × the bound"
    return y


def test_backend_is_here() -> None:
    assert BACKEND.absent("cpu") is None
    absence = BACKEND.absent("cuda")
    assert absence is not None
    assert "TRITON_INTERPRET" in absence.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(16, 32, 16), (15, 31, 15), (17, 33, 17), (1, 1, 1), (1, 40, 5), (37, 1, 3), (7, 5, 53), (32, 64, 48)],
    ids=str,
)
def test_sizes(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    check(SMALL, torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype))


@pytest.mark.parametrize("split_k", [1, 2, 3, 7])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_epilogue(activation: str, split_k: int) -> None:
    config = replace(SMALL, split_k=split_k)
    bias, residual = torch.randn(37).half(), torch.randn(19, 37)
    a, b = torch.randn(19, 100).half(), torch.randn(100, 37).half()
    check(config, a, b, bias, residual, activation=activation, keep_preact=True, out_dtype=torch.float32)


@pytest.mark.parametrize(
    ("a_row", "b_row", "strided"),
    [*itertools.product((True, False), (True, False), (False,)), (True, True, True)],
)
def test_layouts(a_row: bool, b_row: bool, strided: bool) -> None:
    def matrix(rows: int, cols: int, row: bool) -> Tensor:
        if strided:
            return torch.randn(rows * 2, cols * 3)[::2, ::3]
        return torch.randn(rows, cols) if row else torch.randn(cols, rows).t()

    # 24 = 3 · 8 is no multiple of 16: with 8 columns more it takes the kernel's UNIT path.
    check(SMALL, matrix(18, 21, a_row), matrix(21, 35, b_row))
    check(SMALL, matrix(24, 40, a_row), matrix(40, 24, b_row))


@pytest.mark.parametrize(
    "dtypes", list(itertools.product((torch.float32, torch.bfloat16, torch.float16), repeat=2))
)
def test_bias_and_output_have_their_own_dtypes(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    extra, out = dtypes
    a, b = torch.randn(5, 20).half(), torch.randn(20, 33).half()
    check(SMALL, a, b, torch.randn(66).to(extra)[::2], torch.randn(33, 5).to(out).t(), out_dtype=out)


def test_residual_broadcasts() -> None:
    a, b = torch.randn(3, 17, 20), torch.randn(3, 20, 9)
    for shape in ((9,), (17, 1), (3, 1, 1), (3, 17, 9), (1,)):
        check(SMALL, a, b, None, torch.randn(shape))
        check(replace(SMALL, split_k=2), a, b, None, torch.randn(shape))


@pytest.mark.parametrize("split_k", [1, 2])
def test_batches(split_k: int) -> None:
    config = replace(SMALL, split_k=split_k)
    b = torch.randn(3, 20, 18)
    check(config, torch.randn(3, 17, 20), b)
    check(config, torch.randn(17, 20).expand(3, 17, 20), b)  # broadcast: stride 0
    check(config, torch.randn(2, 1, 5, 20), b)  # two dimensions
    check(config, torch.randn(3, 5, 20), torch.randn(20, 18))  # folds into M
    # Four dimensions that do not merge: a launch for each of the first two.
    check(
        config,
        torch.randn(2, 1, 2, 1, 5, 20),
        torch.randn(1, 2, 1, 2, 20, 18),
        torch.randn(18),
        torch.randn(2, 2, 2, 2, 5, 18),
        activation="relu",
        keep_preact=True,
    )


@pytest.mark.parametrize("split_k", [1, 2])
def test_empty(split_k: int) -> None:
    config = replace(SMALL, split_k=split_k if split_k == 1 else 1)
    bias = torch.randn(5)
    y = check(config, torch.randn(3, 0), torch.randn(0, 5), bias, activation="silu", keep_preact=True)
    assert torch.allclose(y, torch.nn.functional.silu(bias).expand(3, 5))
    for shape_a, shape_b in (((0, 4), (4, 5)), ((3, 4), (4, 0)), ((0, 3, 4), (0, 4, 5))):
        problem = MatmulProblem.from_tensors(torch.randn(shape_a), torch.randn(shape_b), keep_preact=True)
        y, preact = BACKEND.bind(replace(SMALL, split_k=split_k), problem)(
            torch.randn(shape_a), torch.randn(shape_b), None, None
        )
        assert y.shape == preact.shape == torch.Size(problem.out_shape)
        assert y.data_ptr() == 0 or y.data_ptr() != preact.data_ptr()


@pytest.mark.parametrize("split_k", [1, 2])
def test_not_a_number_and_infinity(split_k: int) -> None:
    a, b = torch.randn(17, 33), torch.randn(33, 18)
    a[3, 5], a[4, 6], b[7, 2], b[8, 3] = float("nan"), float("inf"), float("nan"), float("-inf")
    a[5] = 0.0  # 0 · NaN is NaN: no operand may be skipped
    for activation in ("none", "relu"):
        problem = MatmulProblem.from_tensors(a, b, activation=activation)
        y = BACKEND.bind(replace(SMALL, split_k=split_k), problem)(a, b, None, None)
        want = torch.matmul(a, b)
        want = torch.relu(want) if activation == "relu" else want
        torch.testing.assert_close(y, want, equal_nan=True)


def test_poison_outside_the_matrices_is_not_read() -> None:
    """Rows, columns and K beyond the operands hold NaN: only a mask keeps them out."""
    for split_k in (1, 2):
        a = torch.full((40, 60), float("nan"))[:17, :21]
        b = torch.full((60, 80), float("nan"))[:21, :33]
        a.copy_(torch.randn(17, 21))
        b.copy_(torch.randn(21, 33))
        check(replace(SMALL, split_k=split_k), a, b)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extreme_values(activation: str) -> None:
    """Activations of large values neither overflow nor lose their sign, as torch's do not."""
    z = torch.tensor([[0.0, -0.0, 1e-30, 30.0, -30.0, 1e4, -1e4, 3e37, -3e37, float("inf"), float("nan")]])
    one = torch.ones(1, 1)
    problem = MatmulProblem.from_tensors(one, z, activation=activation)
    y = BACKEND.bind(SMALL, problem)(one, z, None, None)
    want = matmul_float64(one, z, None, None, activation)[0].float()
    torch.testing.assert_close(y, want, equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [
    TritonConfig("tiled", 64, 64, 32, 1, 1, 4, 2),
    TritonConfig("tiled", 16, 128, 64, 16, 2, 8, 5),
    TritonConfig("tiled", 128, 128, 32, 8, 1, 4, 4),
    TritonConfig("tiled", 32, 256, 16, 4, 3, 4, 2),
], ids=str)  # fmt: skip
def test_blocks(config: TritonConfig) -> None:
    a, b = torch.randn(150, 70), torch.randn(70, 270)
    check(config, a, b, torch.randn(270), torch.randn(150, 270), activation="gelu", keep_preact=True)


def test_every_listed_config() -> None:
    """What `configs` offers for a CPU is what a caller may get."""
    a, b = torch.randn(33, 130).half(), torch.randn(130, 50).half()
    configs = list(BACKEND.configs(MatmulProblem.from_tensors(a, b), CPU))
    assert configs
    for config in configs:
        check(config, a, b)


def test_split_k_is_deterministic() -> None:
    a, b = torch.randn(20, 200), torch.randn(200, 20)
    problem = MatmulProblem.from_tensors(a, b)
    launch = BACKEND.bind(replace(SMALL, split_k=5), problem)
    assert torch.equal(launch(a, b, None, None), launch(a, b, None, None))


def test_outputs_are_fresh() -> None:
    a, b, residual = torch.randn(4, 8), torch.randn(8, 4), torch.randn(4, 4)
    kept = [tensor.clone() for tensor in (a, b, residual)]
    launch = BACKEND.bind(SMALL, MatmulProblem.from_tensors(a, b, None, residual))
    first, second = launch(a, b, None, residual), launch(a, b, None, residual)
    assert len({tensor.data_ptr() for tensor in (a, b, residual, first, second)}) == 5
    assert all(torch.equal(now, before) for now, before in zip((a, b, residual), kept, strict=True))


@pytest.mark.parametrize("where", ["a_rows", "b_rows", "k", "residual", "batch"])
def test_offsets_beyond_32_bits(where: str) -> None:
    """Strides of more than 2^31 elements over memory that is reserved, but never touched between the rows."""
    stride = 2**31 + 8
    storage = torch.empty(3 * stride, dtype=torch.float16)

    def far(rows: int, cols: int) -> Tensor:
        view = storage.as_strided((rows, cols), (stride, 1))
        return view.copy_(torch.randn(rows, cols))

    a, b, residual = torch.randn(3, 20).half(), torch.randn(20, 18).half(), None
    if where == "a_rows":
        a = far(3, 20)
    elif where == "b_rows":
        a, b = torch.randn(4, 3).half(), far(3, 18)
    elif where == "k":
        a = far(3, 20).t()
        b = torch.randn(3, 18).half()
    elif where == "residual":
        residual = far(3, 18)
    else:
        a = storage.as_strided((3, 4, 20), (stride, 20, 1)).copy_(torch.randn(3, 4, 20))
        b = torch.randn(3, 20, 18).half()
    check(SMALL, a, b, None, residual)
