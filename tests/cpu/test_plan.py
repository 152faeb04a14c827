"""What Python can hand to the compiled module never crashes it: bad geometry raises before anything runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tests.cpu.support import GEMM_TILES, LEVELS, gemm, gemv, spec
from tilewright import _C
from tilewright.errors import DeviceError
from tilewright.kernels.matmul.cpu import BACKEND, CpuConfig
from tilewright.kernels.matmul.cpu.config import workspace_bytes
from tilewright.kernels.matmul.problem import MatmulProblem

TILE_M, TILE_N = next((m, n) for isa, m, n in GEMM_TILES if isa == "portable")


def fields(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "isa": "portable",
        "algorithm": "gemm",
        "m": 4,
        "n": 5,
        "k": 6,
        "batch": [],
        "a_strides": [6, 1],
        "b_strides": [5, 1],
        "bias_stride": 1,
        "residual_strides": None,
        "dtype": "f32",
        "out_dtype": "f32",
        "bias_dtype": None,
        "residual_dtype": None,
        "activation": "none",
        "keep_preact": False,
        "block_m": 8,
        "block_n": 8,
        "block_k": 8,
        "tile_m": TILE_M,
        "tile_n": TILE_N,
        "compute": "f32",
        "pack_b": "private",
        "parts_m": 1,
        "parts_n": 1,
        "prefetch": 0,
        "threads": 1,
    }
    return {**plain, **changes}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"isa": "sse9"}, "isa"),
        ({"algorithm": "fft"}, "algorithm"),
        ({"m": -1}, "negative"),
        ({"batch": [-2]}, "batch"),
        ({"batch": [1] * 65, "a_strides": [0] * 67}, "64"),
        ({"a_strides": [6]}, "a_strides"),
        ({"a_strides": [6, -1]}, "negative"),
        ({"b_strides": [1, 2, 3]}, "b_strides"),
        ({"a_strides": [2**62, 1]}, "64 bits"),
        ({"m": 2**62, "n": 2**62}, "64 bits"),
        ({"dtype": "f64"}, "dtype"),
        ({"out_dtype": "i8"}, "out_dtype"),
        ({"bias_dtype": "x"}, "bias_dtype"),
        ({"bias_stride": -1}, "bias_stride"),
        ({"residual_dtype": "f32"}, "residual"),
        ({"residual_strides": [5, 1]}, "residual"),
        ({"residual_strides": [5], "residual_dtype": "f32"}, "residual_strides"),
        ({"activation": "tanh"}, "activation"),
        ({"block_m": 0}, "block_m"),
        ({"block_k": 2**40}, "block_k"),
        ({"tile_m": 3}, "tile"),
        ({"tile_n": -8}, "tile"),
        ({"compute": "f64"}, "compute"),
        ({"compute": "bf16"}, "bf16"),
        ({"pack_b": "twice"}, "pack_b"),
        ({"pack_b": "frozen", "batch": [2], "a_strides": [24, 6, 1], "b_strides": [30, 5, 1]}, "batch"),
        ({"algorithm": "gemv", "tile_m": 0, "tile_n": 0, "pack_b": "frozen"}, "frozen"),
        ({"parts_m": 0}, "parts"),
        ({"parts_m": 1000, "parts_n": 1000}, "parts"),
        ({"prefetch": -1}, "prefetch"),
        ({"threads": 0}, "threads"),
        ({"threads": 100_000}, "threads"),
        ({"m": 2**15, "n": 2**15, "block_m": 2**15, "block_n": 2**15, "block_k": 2}, "scratch"),
        ({"algorithm": "gemv", "tile_m": 0, "tile_n": 0, "m": 17, "n": 17, "b_strides": [17, 1]}, "16"),
        ({"algorithm": "gemv", "tile_m": 0, "tile_n": 0, "b_strides": [20, 2]}, "unit stride"),
    ],
)
def test_bad_geometry_is_rejected(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        _C.MatmulPlan(**fields(**changes))


def test_numbers_that_do_not_fit_are_type_errors() -> None:
    for changes in ({"m": 2**70}, {"m": 1.5}, {"threads": 2**40}, {"batch": "ab"}, {"isa": 3}):
        with pytest.raises(TypeError):
            _C.MatmulPlan(**fields(**changes))
    with pytest.raises(TypeError):
        _C.MatmulPlan()


def test_missing_and_surplus_addresses_are_rejected() -> None:
    x = torch.zeros(64)
    at = x.data_ptr()
    plan = _C.MatmulPlan(**fields())
    for addresses in ((0, at, at, 0, 0, 0), (at, 0, at, 0, 0, 0), (at, at, 0, 0, 0, 0)):
        with pytest.raises(ValueError, match="null"):
            plan.run(*addresses)
    for addresses in ((at, at, at, at, 0, 0), (at, at, at, 0, at, 0), (at, at, at, 0, 0, at)):
        with pytest.raises(ValueError, match="exactly where"):
            plan.run(*addresses)
    with pytest.raises(ValueError, match="bias"):
        _C.MatmulPlan(**fields(bias_dtype="f32")).run(at, at, at, 0, 0, 0)
    with pytest.raises(TypeError):
        plan.run(-1, at, at, 0, 0, 0)


def test_packing_checks_its_addresses() -> None:
    x = torch.zeros(64)
    plan = _C.MatmulPlan(**fields(pack_b="frozen"))
    assert plan.packed_bytes >= 4 * 5 * 6
    with pytest.raises(ValueError, match="null"):
        plan.pack(0, x.data_ptr())
    with pytest.raises(ValueError, match="frozen"):
        _C.MatmulPlan(**fields()).pack(x.data_ptr(), x.data_ptr())
    assert _C.MatmulPlan(**fields(pack_b="frozen", n=0)).packed_bytes == 0


def test_empty_products_touch_nothing() -> None:
    for changes in ({"m": 0}, {"n": 0}, {"batch": [0], "a_strides": [0, 6, 1], "b_strides": [0, 5, 1]}):
        _C.MatmulPlan(**fields(**changes)).run(0, 0, 0, 0, 0, 0)


def problem(m: int = 40, n: int = 50, k: int = 60, **options: Any) -> MatmulProblem:
    dtype = options.pop("dtype", torch.float32)
    options.setdefault("threads", 2)
    return MatmulProblem.from_tensors(
        torch.empty(m, k, dtype=dtype), torch.empty(k, n, dtype=dtype), **options
    )


@pytest.mark.parametrize(
    "change",
    [
        {"block_m": "8"},
        {"block_m": True},
        {"block_m": 8.0},
        {"block_m": None},
        {"block_n": -1},
        {"block_k": 10**30},
        {"tile_m": 5},
        {"tile_m": 10**30},
        {"compute": "bf16"},
        {"compute": ["f32"]},
        {"pack_b": "frozen"},
        {"pack_b": ""},
        {"parts_m": 0},
        {"parts_n": 10**9},
        {"parts_n": "2"},
        {"prefetch": -1},
        {"prefetch": 10**12},
        {"isa": "avx9"},
        {"isa": ["portable"]},
        {"algorithm": "gemm\0"},
        {"algorithm": 7},
    ],
)
def test_configs_from_a_tampered_file_are_rejected(change: dict[str, Any]) -> None:
    config = dataclasses.replace(gemm("portable", TILE_M, TILE_N), **change)
    reason = BACKEND.rejects(config, problem(), spec("portable"))
    assert isinstance(reason, str)
    assert reason


def test_rejects_what_is_not_its_business() -> None:
    good = gemm("portable", TILE_M, TILE_N)
    here = spec("portable")
    assert BACKEND.rejects(good, problem(), here) is None
    assert "CpuConfig" in str(BACKEND.rejects("gemm", problem(), here))
    assert "f64" in str(BACKEND.rejects(good, problem(dtype=torch.float64), here))
    assert "GPU" in str(BACKEND.rejects(good, dataclasses.replace(problem(), device="cuda"), here))
    assert "activation" in str(BACKEND.rejects(good, dataclasses.replace(problem(), activation="elu"), here))
    assert "level in use" in str(BACKEND.rejects(dataclasses.replace(good, isa="avx512"), problem(), here))
    huge = dataclasses.replace(good, block_m=1 << 20, block_n=1 << 20, block_k=16)
    assert "scratch" in str(BACKEND.rejects(huge, dataclasses.replace(problem(), m=1 << 20, n=1 << 20), here))
    assert BACKEND.absent("cpu") is None
    assert BACKEND.absent("cuda") is not None


def test_bind_says_which_config_it_could_not_take() -> None:
    with pytest.raises(DeviceError, match="7x7"):
        BACKEND.bind(gemm("portable", 7, 7), problem())


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1, 1), (1, 4096, 4096), (16, 64, 100_000), (3000, 10, 64), (512, 512, 2048), (0, 3, 5)],
)
def test_candidates(isa: str, m: int, n: int, k: int) -> None:
    """A handful, without doubles, accepted, printable, storable, and within the scratch memory foretold."""
    a, b = torch.empty(m, k), torch.empty(k, n)
    for threads in (1, 3):
        here = MatmulProblem.from_tensors(a, b, threads=threads)
        found = list(BACKEND.configs(here, spec(isa)))
        assert 1 <= len(found) <= 16
        assert len(set(found)) == len(found) == len({str(config) for config in found})
        for config in found:
            assert config.isa == isa
            assert BACKEND.rejects(config, here, spec(isa)) is None
            assert CpuConfig(**dataclasses.asdict(config)) == config
            plan = BACKEND.bind(config, here)
            assert callable(plan)


@pytest.mark.parametrize("m", [2047, 2048, 2049, 3000, 5000])
def test_a_batch_of_many_rows_has_configs(m: int) -> None:
    """However the rows are cut: each thread packs B of a batch by itself, and nobody else may."""
    a, b = torch.empty(2, m, 8, device="meta"), torch.empty(2, 8, 40, device="meta")
    here = dataclasses.replace(MatmulProblem.from_tensors(a, b, threads=2), device="cpu", alignment=0)
    assert {config.pack_b for config in BACKEND.configs(here, spec("portable"))} == {"private"}


def test_scratch_memory_is_never_more_than_foretold() -> None:
    generator = torch.Generator().manual_seed(7)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for _ in range(200):
        m, n, k = draw(1, 300), draw(1, 300), draw(0, 500)
        config = gemm(
            "portable",
            TILE_M,
            TILE_N,
            block_m=draw(1, 400),
            block_n=draw(1, 400),
            block_k=draw(1, 600),
            parts_m=draw(1, 6),
            parts_n=draw(1, 6),
            pack_b=("private", "shared", "frozen")[draw(0, 3)],
        )
        if draw(0, 2):
            m, n = (m, draw(1, 17)) if draw(0, 2) else (draw(1, 17), n)
            config = gemv("portable", draw(1, 400), draw(1, 300))
        threads = draw(1, 5)
        here = problem(m, n, k, threads=threads)
        plan = _C.MatmulPlan(
            **fields(
                **dataclasses.asdict(config),
                m=m,
                n=n,
                k=k,
                a_strides=[k, 1],
                b_strides=[n, 1],
                threads=threads,
            )
        )
        assert plan.workspace_bytes <= workspace_bytes(config, here)
