"""The blocked product: every register tile, every edge of it, every way a matrix can lie in memory."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.cpu.support import BF16_TILES, DTYPES, GEMM_TILES, LEVELS, PACKS, check, gemm, matrix, run

LAYOUTS = ("row", "col", "strided")


@pytest.mark.parametrize(("isa", "tile_m", "tile_n"), GEMM_TILES)
def test_every_edge_of_every_tile(isa: str, tile_m: int, tile_n: int) -> None:
    config = gemm(isa, tile_m, tile_n)
    rows = (1, tile_m - 1, tile_m, tile_m + 1, 2 * tile_m, 2 * tile_m + 1)
    columns = (1, tile_n - 1, tile_n, tile_n + 1, 2 * tile_n + 3)
    for m, n in itertools.product(rows, columns):
        check(config, matrix(m, 33, torch.float32), matrix(33, n, torch.float32, "col"))


@pytest.mark.parametrize(("isa", "tile_m", "tile_n"), GEMM_TILES)
def test_every_count_of_rows_and_vectors_has_its_kernel(isa: str, tile_m: int, tile_n: int) -> None:
    for m in range(1, tile_m + 1):
        for n in range(1, tile_n + 1, 4):
            check(gemm(isa, tile_m, tile_n), matrix(m, 9, torch.float32), matrix(9, n, torch.float32))


@pytest.mark.parametrize(("isa", "tile_m", "tile_n"), GEMM_TILES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layout(isa: str, tile_m: int, tile_n: int, dtype: torch.dtype) -> None:
    for a_layout, b_layout in itertools.product(LAYOUTS, LAYOUTS):
        a, b = matrix(29, 37, dtype, a_layout), matrix(37, 71, dtype, b_layout)
        check(gemm(isa, tile_m, tile_n, block_k=16), a, b)


@pytest.mark.parametrize(("isa", "tile_m", "tile_n"), GEMM_TILES)
@pytest.mark.parametrize("k", [0, 1, 2, 15, 16, 17, 63, 64, 65, 128, 129])
def test_depth(isa: str, tile_m: int, tile_n: int, k: int) -> None:
    config = gemm(isa, tile_m, tile_n, block_k=64)
    check(config, matrix(tile_m + 1, k, torch.bfloat16), matrix(k, tile_n + 1, torch.bfloat16))
    check(config, matrix(tile_m + 1, k, torch.float32), matrix(k, tile_n + 1, torch.float32, "col"))


@pytest.mark.parametrize(("isa", "tile_m", "tile_n"), GEMM_TILES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pack_b", PACKS)
def test_every_way_of_packing(isa: str, tile_m: int, tile_n: int, dtype: torch.dtype, pack_b: str) -> None:
    bias = torch.randn(101)
    for m, (parts_m, parts_n), b_layout in itertools.product((1, 5, 40), ((1, 1), (1, 3), (2, 2)), LAYOUTS):
        config = gemm(
            isa, tile_m, tile_n, pack_b=pack_b, parts_m=parts_m, parts_n=parts_n, prefetch=256, block_k=24
        )
        check(config, matrix(m, 67, dtype), matrix(67, 101, dtype, b_layout), bias, activation="relu")


@pytest.mark.skipif(not BF16_TILES, reason="this processor has no AVX512-BF16")
class TestBf16Pairs:
    """The processor's dot products of bf16 pairs: an odd K, and every way in which pairs lie in memory."""

    @pytest.mark.parametrize(("isa", "tile_m", "tile_n"), BF16_TILES)
    @pytest.mark.parametrize("pack_b", PACKS)
    def test_every_layout(self, isa: str, tile_m: int, tile_n: int, pack_b: str) -> None:
        for a_layout, b_layout, k in itertools.product(LAYOUTS, LAYOUTS, (36, 37)):
            a, b = matrix(29, k, torch.bfloat16, a_layout), matrix(k, 71, torch.bfloat16, b_layout)
            check(gemm(isa, tile_m, tile_n, compute="bf16", pack_b=pack_b, block_k=16), a, b)

    @pytest.mark.parametrize(("isa", "tile_m", "tile_n"), BF16_TILES)
    def test_every_count_of_rows_and_vectors_has_its_kernel(self, isa: str, tile_m: int, tile_n: int) -> None:
        config = gemm(isa, tile_m, tile_n, compute="bf16")
        for m in range(1, tile_m + 1):
            for n in (1, 15, 16, 17, tile_n - 1, tile_n):
                check(config, matrix(m, 9, torch.bfloat16), matrix(9, n, torch.bfloat16))

    @pytest.mark.parametrize(("isa", "tile_m", "tile_n"), BF16_TILES)
    @pytest.mark.parametrize("k", [0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 130])
    def test_depth(self, isa: str, tile_m: int, tile_n: int, k: int) -> None:
        for m, block_k in itertools.product((1, tile_m + 1), (1, 33, 64)):
            config = gemm(isa, tile_m, tile_n, compute="bf16", block_k=block_k)
            check(config, matrix(m, k, torch.bfloat16), matrix(k, tile_n + 1, torch.bfloat16, "col"))

    @pytest.mark.parametrize(("isa", "tile_m", "tile_n"), BF16_TILES)
    def test_an_odd_end_meets_zeros_and_nothing_else(self, isa: str, tile_m: int, tile_n: int) -> None:
        # What lies behind the last element of a row must not be multiplied: it may be infinite.
        a = torch.full((3, 8), float("inf"), dtype=torch.bfloat16)
        b = torch.full((5, 8), float("inf"), dtype=torch.bfloat16)
        a[:, :7], b[:, :7] = 1, 2
        for parts in ((a[:, :7], b[:, :7].t()), (a.t().contiguous().t()[:, :7], b.t().contiguous()[:7])):
            out = run(gemm(isa, tile_m, tile_n, compute="bf16"), *parts)
            assert isinstance(out, torch.Tensor)
            assert torch.equal(out, torch.full((3, 5), 14.0, dtype=torch.bfloat16))

    @pytest.mark.parametrize(("isa", "tile_m", "tile_n"), BF16_TILES)
    def test_batches(self, isa: str, tile_m: int, tile_n: int) -> None:
        a, b = matrix(19, 23, torch.bfloat16, batch=(2, 3)), matrix(23, 31, torch.bfloat16, batch=(3,))
        for parts_n in (1, 2):
            check(gemm(isa, tile_m, tile_n, compute="bf16", parts_n=parts_n), a, b)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_nan_and_infinity(self, value: float) -> None:
        a, b = matrix(17, 20, torch.bfloat16), matrix(20, 35, torch.bfloat16)
        a[3, 7] = value
        b[:, 30] = 0
        out = run(gemm(*BF16_TILES[0], compute="bf16"), a, b)
        assert isinstance(out, torch.Tensor)
        assert out[3, 30].isnan()  # infinity times zero
        assert not out[3].isfinite().any()
        assert out[[i for i in range(17) if i != 3]].isfinite().all()


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("blocks", [(1, 1, 1), (3, 5, 7), (1000, 1000, 1000), (13, 1, 40), (1, 1000, 3)])
def test_blocks_need_not_be_multiples_of_the_tile(isa: str, blocks: tuple[int, int, int]) -> None:
    tile_m, tile_n = next((m, n) for level, m, n in GEMM_TILES if level == isa)
    config = gemm(isa, tile_m, tile_n, block_m=blocks[0], block_n=blocks[1], block_k=blocks[2])
    check(config, matrix(37, 41, torch.float32), matrix(41, 43, torch.float32, "col"))


@pytest.mark.parametrize("isa", LEVELS)
def test_batches_and_expanded_operands(isa: str) -> None:
    tile_m, tile_n = next((m, n) for level, m, n in GEMM_TILES if level == isa)
    a, b = matrix(19, 23, torch.float16, batch=(2, 3)), matrix(23, 31, torch.float16, "col", batch=(2, 3))
    # One part: each thread has matrices of its own; two: they share each matrix.
    for config in (gemm(isa, tile_m, tile_n, parts_n=1), gemm(isa, tile_m, tile_n, parts_n=2)):
        check(config, a, b)
        check(config, a[:, :1].expand(2, 3, 19, 23), b)
        check(config, a, b[:1].expand(2, 3, 23, 31))
        check(config, a[0, 0, :1].expand(19, 23), b[0, 0, :, :1].expand(23, 31))
        check(config, a[0, 0, :, :1].expand(19, 23), b[0, 0, :1].expand(23, 31))
    for batch in ((0,), (2, 0)):
        out = run(config, matrix(4, 5, torch.float32, batch=batch), matrix(5, 6, torch.float32, batch=batch))
        assert isinstance(out, torch.Tensor)
        assert out.shape == (*batch, 4, 6)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("empty", ["m", "n"])
def test_empty_outputs(isa: str, empty: str) -> None:
    tile_m, tile_n = next((m, n) for level, m, n in GEMM_TILES if level == isa)
    m, n = (0, 5) if empty == "m" else (5, 0)
    out = run(gemm(isa, tile_m, tile_n), matrix(m, 3, torch.float32), matrix(3, n, torch.float32))
    assert isinstance(out, torch.Tensor)
    assert out.shape == (m, n)


@pytest.mark.parametrize("isa", LEVELS)
def test_block_k_bounds_the_error_of_long_sums(isa: str) -> None:
    # All terms positive: one chain of 60 000 additions errs by about √K ulp, sums of blocks by far less.
    tile_m, tile_n = next((m, n) for level, m, n in GEMM_TILES if level == isa)
    a, b = torch.rand(4, 60_000), torch.rand(60_000, 4)
    out = run(gemm(isa, tile_m, tile_n, block_k=384), a, b)
    assert isinstance(out, torch.Tensor)
    exact = a.double() @ b.double()
    assert ((out - exact).abs() / exact).max() < 16 * 2.0**-24


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_reach_exactly_their_row_and_column(isa: str, value: float) -> None:
    tile_m, tile_n = next((m, n) for level, m, n in GEMM_TILES if level == isa)
    a, b = matrix(17, 20, torch.float32), matrix(20, 35, torch.float32)
    a[3, 7] = value
    b[:, 30] = 0
    out = run(gemm(isa, tile_m, tile_n), a, b)
    assert isinstance(out, torch.Tensor)
    torch.testing.assert_close(out, a @ b, equal_nan=True, rtol=1e-4, atol=1e-4)
    assert out[3, 30].isnan()  # infinity times zero
    assert out[[i for i in range(17) if i != 3]].isfinite().all()
