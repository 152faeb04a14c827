"""The sm_90a matmul where its protocol is strained: rings that wrap, blocks that walk over many tiles, clusters that
overhang the matrix, in every order of completion."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.contract.subjects import EMULATING
from tilewright.kernels.cuda import Instance, instances
from tilewright.kernels.cuda_emulated import EMULATED, emulator
from tilewright.kernels.matmul import cuda_emulated
from tilewright.kernels.matmul.cuda.config import CudaConfig
from tilewright.kernels.matmul.problem import MatmulProblem

from .support import COMPLETIONS

ALGORITHMS = ("cooperative", "ping_pong")
CONFLICTS = (
    *("ldmatrix_conflicts", "stmatrix_conflicts", "copy_conflicts"),
    "vector_conflicts",
    "scalar_conflicts",
)

pytestmark = pytest.mark.skipif(not EMULATING, reason="TILEWRIGHT_EMULATOR is not set (see docs/emulator.md)")


def _instances() -> list[Instance]:
    if not EMULATING or emulator() is None:
        return []
    return [instance for instance in instances(EMULATED, "matmul") if instance.algorithm in ALGORITHMS]


def _label(instance: Instance) -> str:
    blocks = f"{instance.block_m}x{instance.block_n}c{instance.cluster}"
    return f"{instance.algorithm}-{instance.dtype}-{blocks}-{instance.a_layout}-{instance.b_layout}"


def _config(instance: Instance, group_m: int = 8) -> CudaConfig:
    algorithm, block_m, block_n, block_k, num_warps, num_stages, cluster = instance.tile
    return CudaConfig(algorithm, block_m, block_n, block_k, group_m, 1, num_warps, num_stages, cluster)


@pytest.fixture
def module() -> Iterator[ModuleType]:
    found = emulator()
    assert found is not None
    found.reset()
    yield found
    found.configure()
    found.reset()


def _operands(instance: Instance, m: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B as the instance reads them, their rows padded to 16 bytes with what must not be read."""
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[instance.dtype]
    unit = 16 // dtype.itemsize

    def matrix(rows: int, columns: int) -> torch.Tensor:
        padded = torch.full((rows, -(-columns // unit) * unit + unit), torch.nan, dtype=dtype)
        padded[:, :columns] = torch.randn(rows, columns)
        return padded[:, :columns]

    a = matrix(m, k) if instance.a_layout == "row" else matrix(k, m).T
    b = matrix(k, n) if instance.b_layout == "row" else matrix(n, k).T
    return a, b


def _problem(a: torch.Tensor, b: torch.Tensor, **epilogue: object) -> MatmulProblem:
    problem = MatmulProblem.from_tensors(a, b, precision="tf32", **epilogue)  # type: ignore[arg-type]
    return replace(problem, alignment=16)


def _check(y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    product = a.double() @ b.double()
    magnitude = a.double().abs() @ b.double().abs()
    if bias is not None:
        product += bias.double()
    rounding = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-9}[a.dtype]
    slack = 2.0**-8 if a.dtype == torch.float32 else 2.0**-18
    assert torch.all((y.double() - product).abs() <= rounding * product.abs() + slack * magnitude)


def _walks() -> list[tuple[Instance, str]]:
    """f16 differs from bf16 in what wgmma is told of its operands, not in the protocol."""
    return [
        (instance, completion)
        for instance, completion in itertools.product(_instances(), COMPLETIONS)
        if instance.dtype != "f16" or completion == "random"
    ]


@pytest.mark.parametrize(
    ("instance", "completion"), _walks(), ids=lambda value: value if isinstance(value, str) else _label(value)
)
def test_walks_over_many_tiles(instance: Instance, completion: str, module: ModuleType) -> None:
    """Three tiles and more for each of the 4 blocks, K steps beyond the ring, an odd number of tile rows, ragged edges;
    no access to shared memory meets another in a bank."""
    m, n = 2 * instance.block_m + 5, 2 * instance.block_n + 8
    k = (instance.num_stages + 1) * instance.block_k + 8
    a, b = _operands(instance, m, n, k)
    bias = torch.randn(n, dtype=a.dtype)
    launch = cuda_emulated.BACKEND.bind(_config(instance, group_m=2), _problem(a, b, bias=bias))
    module.configure(seed=7, completion=completion, bank_conflicts=True)
    y = launch(a, b, bias)
    _check(y, a, b, bias)
    counters = module.counters()
    assert sum(counters["errors"].values()) == 0
    assert {name: counters[name] for name in CONFLICTS} == dict.fromkeys(CONFLICTS, 0)


@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_order(algorithm: str, seed: int, module: ModuleType) -> None:
    """Orders of blocks, warps and completions that the seeds draw."""
    instance = next(row for row in _instances() if row.algorithm == algorithm and row.cluster == 2)
    a, b = _operands(instance, instance.block_m + 1, 3 * instance.block_n, 9 * instance.block_k)
    launch = cuda_emulated.BACKEND.bind(_config(instance), _problem(a, b))
    module.configure(seed=seed, completion="random")
    _check(launch(a, b), a, b)


@pytest.mark.parametrize("n", [1, 7, 8, 130])
def test_widths_that_no_bulk_store_takes(n: int, module: ModuleType) -> None:
    """y's rows are multiples of 16 bytes, or are stored by threads."""
    for instance in _instances():
        if instance.dtype == "bf16" and instance.b_layout == "column" and instance.a_layout == "row":
            a, b = _operands(instance, 3, n, 40)
            _check(cuda_emulated.BACKEND.bind(_config(instance), _problem(a, b))(a, b), a, b)


@pytest.mark.parametrize("transposed", list(itertools.product([False, True], repeat=2)))
def test_refuses_rows_off_16_bytes(transposed: tuple[bool, bool]) -> None:
    """What TMA cannot address is refused with the reason, not computed wrongly."""
    a, b = torch.randn(36, 36, dtype=torch.bfloat16), torch.randn(36, 36, dtype=torch.bfloat16)
    a, b = (x.T if swap else x for x, swap in zip((a, b), transposed, strict=True))
    problem = replace(MatmulProblem.from_tensors(a, b), alignment=16)
    for config in {_config(instance) for instance in _instances() if instance.dtype == "bf16"}:
        reason = cuda_emulated.BACKEND.rejects(config, problem, EMULATED.device(None))  # type: ignore[arg-type]
        assert reason is not None
        assert "16 bytes" in reason or "contiguous" in reason


def test_readme_lists_the_tiles(repository: Path) -> None:
    """The table of tiles in kernels/matmul/README.md is that of the build."""
    text = (repository / "kernels" / "matmul" / "README.md").read_text()
    row = r"\| (\w+) \| (\d+) × (\d+) × (\d+) \| (\d+) \| (\d+) \|"
    listed = {(name, *map(int, numbers)) for name, *numbers in re.findall(row, text) if name in ALGORITHMS}
    for dtype in ("bf16", "f16"):
        assert listed == {
            (row.algorithm, row.block_m, row.block_n, row.block_k, row.num_stages, row.cluster)
            for row in _instances()
            if row.dtype == dtype
        }
