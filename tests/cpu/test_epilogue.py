"""Bias, residual, activations and roundings. With K = 0 the kernels are nothing but their epilogue."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.cpu.support import DTYPES, GEMM_TILES, LEVELS, check, gemm, gemv, matrix, run
from tilewright.kernels.epilogue import ACTIVATIONS, activate

TILES = {isa: (tile_m, tile_n) for isa, tile_m, tile_n in GEMM_TILES}


def epilogue_of(
    isa: str, z: Tensor, activation: str = "none", out_dtype: torch.dtype = torch.float32
) -> Tensor:
    """act(z) as the kernels compute it, z brought in as the residual of an empty product."""
    config = gemm(isa, *TILES[isa], block_n=4096)
    out = run(
        config,
        torch.empty(1, 0),
        torch.empty(0, z.numel()),
        None,
        z.view(1, -1),
        activation=activation,
        out_dtype=out_dtype,
    )
    assert isinstance(out, Tensor)
    return out.view(-1)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("keep_preact", [False, True])
def test_all_operands_in_all_dtypes(isa: str, activation: str, keep_preact: bool) -> None:
    configs = [gemm(isa, *TILES[isa], block_k=16), gemv(isa, block=32)]
    for config, dtypes in itertools.product(configs, itertools.product(DTYPES, DTYPES, DTYPES)):
        bias_dtype, residual_dtype, out_dtype = dtypes
        check(
            config,
            matrix(7, 21, torch.float32),
            matrix(21, 37, torch.float32, "col"),
            torch.randn(37).to(bias_dtype),
            matrix(7, 37, residual_dtype),
            activation=activation,
            out_dtype=out_dtype,
            keep_preact=keep_preact,
        )


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides_of_bias_and_residual(isa: str, dtype: torch.dtype) -> None:
    a, b = matrix(18, 5, dtype), matrix(5, 35, dtype)
    biases = [torch.randn(35).to(dtype), torch.randn(70).to(dtype)[::2], torch.randn(1).to(dtype).expand(35)]
    residuals = [
        matrix(18, 35, dtype, "col"),
        matrix(18, 35, dtype, "strided"),
        torch.randn(1, 35).to(dtype).expand(18, 35),
        torch.randn(18, 1).to(dtype).expand(18, 35),
        torch.randn(1, 1).to(dtype).expand(18, 35),
    ]
    for config in (gemm(isa, *TILES[isa]), gemv(isa, block=16)):
        rows = slice(None) if config.algorithm == "gemm" else slice(0, 9)
        for bias, residual in itertools.product(biases, residuals):
            check(config, a[rows], b, bias, residual[rows])


def _gelu(z: Tensor) -> Tensor:
    below: Tensor = torch.special.erfc(-z / math.sqrt(2)) / 2  # 1 + erf would cancel for negative z
    return z * below


def _gelu_tanh(z: Tensor) -> Tensor:
    return z * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))


def _silu(z: Tensor) -> Tensor:
    return z * torch.sigmoid(z)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(
    ("activation", "exact", "ulps"),
    [("relu", torch.relu, 0), ("gelu", _gelu, 8), ("gelu_tanh", _gelu_tanh, 5), ("silu", _silu, 4)],
)
def test_activations_to_a_few_ulp(
    isa: str, activation: str, exact: Callable[[Tensor], Tensor], ulps: int
) -> None:
    patterns = torch.arange(0, 0x7F800000, 30011, dtype=torch.int64).to(torch.int32).view(torch.float32)
    z = torch.cat([patterns, -patterns, torch.linspace(-30, 30, 200_001), torch.linspace(-1, 1, 50_001)])
    out, expected = epilogue_of(isa, z, activation).double(), exact(z.double())
    fits = expected.abs() < torch.finfo(torch.float32).max
    error = (out - expected)[fits].abs()
    # Below 2e-36 exp(z) itself is subnormal and has fewer bits.
    ulp = 2.0 ** (torch.frexp(expected[fits].abs().clamp(min=2e-36)).exponent.double() - 24)
    assert (error / ulp).max() <= ulps
    assert out[fits].isfinite().all()


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_special_values_as_torch_in_float64(isa: str, activation: str) -> None:
    z = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 3e38, -3e38, 1e-45, -1e-45] * 5)
    expected = activate(z.double(), activation)
    torch.testing.assert_close(
        epilogue_of(isa, z, activation).double(), expected, equal_nan=True, atol=1e-44, rtol=0
    )


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_reading_every_16_bit_number(isa: str, dtype: torch.dtype) -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    for z in (every, torch.stack([every, every], 1)[:, 0]):  # vectors, and one by one
        out = epilogue_of(isa, z)
        assert torch.equal(out.isnan(), every.isnan())
        assert torch.equal(out.nan_to_num(nan=0.0), every.float().nan_to_num(nan=0.0))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_to_16_bits_is_to_nearest_even(isa: str, dtype: torch.dtype) -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    every = every[every.isfinite()].sort().values
    halfway = (every[1:].double() + every[:-1].double()).float() / 2
    tiny = torch.finfo(torch.float32).smallest_normal
    values = [
        every,
        halfway,
        torch.nextafter(halfway, halfway + 1e30),
        torch.nextafter(halfway, halfway - 1e30),
    ]
    extremes = torch.tensor([65504.0, 65519.99, 65520.0, 65536.0, 3.4e38, math.inf, math.nan, tiny, 1e-45])
    z = torch.cat([*values, extremes, -extremes])
    out, expected = epilogue_of(isa, z, out_dtype=dtype), z.to(dtype)
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0))
