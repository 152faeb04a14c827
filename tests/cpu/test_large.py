"""Elements more than 2^31 apart: every offset is 64 bits wide. Memory is reserved, a few pages of it are used."""

from __future__ import annotations

import mmap

import pytest
import torch

from tests.cpu.support import GEMM_TILES, LEVELS, check, gemm, gemv
from tilewright.kernels.matmul.cpu import CpuConfig

FAR = 2**30 + 3  # elements; two steps of it are beyond 2^31


def sparse_storage(elements: int, dtype: torch.dtype) -> torch.Tensor:
    """A flat tensor whose pages come into being when they are written."""
    reserve = getattr(mmap, "MAP_NORESERVE", 0)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve
    try:
        memory = mmap.mmap(-1, elements * dtype.itemsize, flags=flags)
    except OSError as error:
        pytest.skip(
            f"this machine does not reserve {elements * dtype.itemsize >> 30} GiB of addresses: {error}"
        )
    return torch.frombuffer(memory, dtype=dtype)


def far_rows(rows: int, cols: int, dtype: torch.dtype) -> torch.Tensor:
    storage = sparse_storage((rows - 1) * FAR + cols, dtype)
    view = storage.as_strided((rows, cols), (FAR, 1))
    return view.copy_(torch.randn(rows, cols))


def configs(isa: str) -> list[CpuConfig]:
    tile_m, tile_n = next((m, n) for level, m, n in GEMM_TILES if level == isa)
    return [gemm(isa, tile_m, tile_n, block_k=2, block_m=2), gemv(isa, block=16)]


@pytest.mark.parametrize("isa", LEVELS)
def test_rows_far_apart(isa: str) -> None:
    dtype = torch.bfloat16
    far = far_rows(4, 24, dtype)
    near = torch.randn(24, 4).to(dtype)
    for config in configs(isa):
        check(config, far, near)  # A's rows, packed along K or streamed
        check(config, near.t(), far.t())  # B's columns
        check(config, near[:5], far)  # B's rows
        check(config, far.t(), near[:5].t())  # A's columns
        check(config, near[:4], near.t(), residual=far)


@pytest.mark.parametrize("isa", LEVELS)
def test_batches_far_apart(isa: str) -> None:
    storage = sparse_storage(2 * FAR + 64, torch.bfloat16)
    batch = storage.as_strided((3, 5, 6), (FAR, 6, 1)).copy_(torch.randn(3, 5, 6))
    for config in configs(isa):
        check(config, batch, torch.randn(3, 6, 7).bfloat16(), residual=torch.randn(3, 5, 7))
        check(config, torch.randn(3, 2, 5).bfloat16(), batch)
