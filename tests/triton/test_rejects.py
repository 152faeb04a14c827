"""What the Triton backend says it cannot run, and that what it lists it can; nothing here is compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tilewright.kernels import triton_runtime
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.triton import BACKEND
from tilewright.kernels.matmul.triton.alignment import elementwise, unit
from tilewright.kernels.matmul.triton.config import TritonConfig
from tilewright.kernels.matmul.triton.proof import linear_problem
from tilewright.tuner.device import builtin

GOOD = TritonConfig("tiled", 128, 128, 64, 8, 1, 8, 3)
A100, H100, B200, L4 = (builtin(name) for name in ("a100", "h100", "b200", "l4"))
HALF = linear_problem(4096, 4096, 4096, torch.float16)


def test_config_prints_and_survives_json() -> None:
    assert str(GOOD) == "tiled 128x128x64 g8 k1 w8 s3"
    assert TritonConfig(**json.loads(json.dumps(asdict(GOOD)))) == GOOD
    assert hash(GOOD) == hash(replace(GOOD))


@pytest.mark.parametrize(
    "field", ["block_m", "block_n", "block_k", "group_m", "split_k", "num_warps", "num_stages"]
)
@pytest.mark.parametrize(
    "value", [0, -1, 1 << 40, 3.0, 64.0, "64", None, True, float("nan"), [64], {}, torch.tensor(64)], ids=repr
)
def test_hostile_values(field: str, value: Any) -> None:
    why = BACKEND.rejects(replace(GOOD, **{field: value}), HALF, H100)
    assert why is not None
    assert field in why


@pytest.mark.parametrize(
    "config",
    [None, 7, "tiled 128x128x64 g8 k1 w8 s3", asdict(GOOD), object()],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_config(config: Any) -> None:
    assert "TritonConfig" in (BACKEND.rejects(config, HALF, H100) or "")


@pytest.mark.parametrize("algorithm", ["persistent", "", None, 3, ["tiled"]])
def test_unknown_algorithm(algorithm: Any) -> None:
    assert "algorithm" in (BACKEND.rejects(replace(GOOD, algorithm=algorithm), HALF, H100) or "")


@pytest.mark.parametrize(
    ("config", "device", "says"),
    [
        (replace(GOOD, num_stages=6), L4, "shared memory"),
        (replace(GOOD, block_n=256, block_k=128, num_stages=6), H100, "shared memory"),
        (replace(GOOD, block_m=256, block_n=256), H100, "registers"),
        (replace(GOOD, num_warps=4, block_m=256), A100, "registers"),
        (replace(GOOD, block_k=16), H100, "K step"),
        (replace(GOOD, block_m=48), H100, "block_m"),
        (replace(GOOD, num_warps=2), H100, "num_warps"),
        (replace(GOOD, num_stages=1), H100, "num_stages"),
        (replace(GOOD, split_k=65), H100, "split_k"),
        (GOOD, replace(A100, arch="sm_75"), "sm_80"),
    ],
)
def test_device_limits(config: TritonConfig, device: DeviceSpec, says: str) -> None:
    assert BACKEND.rejects(GOOD, HALF, H100) is None
    assert says in (BACKEND.rejects(config, HALF, device) or "")


def test_problem_limits() -> None:
    def why(problem: MatmulProblem, config: TritonConfig = GOOD) -> str:
        return BACKEND.rejects(config, problem, H100) or ""

    assert "f64" in why(replace(HALF, dtype=torch.float64))
    assert "i32" in why(replace(HALF, out_dtype=torch.int32))
    assert "bias" in why(replace(HALF, bias_dtype=torch.float64))
    assert "residual" in why(replace(HALF, residual_dtype=torch.int8))
    assert "activation" in why(replace(HALF, activation="tanh"))
    assert "32-bit" in why(replace(HALF, m=2**31))
    assert "grid" in why(replace(HALF, batch=(2**20,), m=2**18, a_strides=(0, 1, 1), b_strides=(0, 1, 1)))
    assert "tiles" in why(replace(HALF, k=64), replace(GOOD, split_k=2))
    ieee = replace(HALF, dtype=torch.float32)
    assert "registers" in why(ieee, replace(GOOD, block_n=256, block_k=16, num_stages=2))
    assert why(replace(ieee, precision="tf32"), replace(GOOD, block_n=256, block_k=16, num_stages=2)) == ""


def test_cpu_needs_the_interpreter() -> None:
    problem = MatmulProblem.from_tensors(torch.randn(4, 4), torch.randn(4, 4))
    cpu = replace(H100, kind="cpu", arch="avx2")
    assert "TRITON_INTERPRET" in (BACKEND.rejects(GOOD, problem, cpu) or "")
    assert list(BACKEND.configs(problem, cpu)) == []
    absence = BACKEND.absent("cpu")
    assert absence is not None
    assert "TRITON_INTERPRET" in absence.remedy


@pytest.mark.parametrize("device", [A100, H100, B200, L4], ids=lambda device: device.arch)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 4096, 4096), (8, 10, 128), (128, 1000, 2048), (4096, 4096, 4096), (5, 7, 0)]
)
def test_every_problem_has_configs(
    shape: tuple[int, int, int], dtype: torch.dtype, device: DeviceSpec
) -> None:
    problem = linear_problem(*shape, dtype)
    configs = list(BACKEND.configs(problem, device))
    assert 1 <= len(configs) <= 24
    assert len(set(configs)) == len(configs)
    assert all(BACKEND.rejects(config, problem, device) is None for config in configs)


def test_split_k_is_offered_where_tiles_are_few() -> None:
    deep = list(BACKEND.configs(linear_problem(16, 512, 16384, torch.float16), H100))
    assert max(config.split_k for config in deep) >= 8
    assert deep[0].split_k > 1
    wide = list(BACKEND.configs(linear_problem(8192, 8192, 4096, torch.float16), H100))
    assert all(config.split_k == 1 for config in wide)
    assert (wide[0].block_m, wide[0].block_n) in ((128, 256), (256, 128))


@pytest.mark.parametrize(
    ("sizes", "dtype", "expected"),
    [
        ((64, 4096, 4096), torch.float16, (1, (False, False))),  # multiples of 16: Triton sees it by itself
        ((64, 1000, 4096), torch.float16, (8, (False, False))),  # of 8: 16 bytes
        ((64, 1000, 1000), torch.float16, (8, (False, False))),
        ((64, 1004, 1004), torch.float32, (4, (False, False))),
        ((64, 1004, 1004), torch.float16, (1, (True, True))),
        ((64, 1001, 4096), torch.float16, (1, (False, True))),
        ((64, 4096, 999), torch.float16, (1, (True, False))),
    ],
)
def test_alignment(
    sizes: tuple[int, int, int], dtype: torch.dtype, expected: tuple[int, tuple[bool, bool]]
) -> None:
    problem = linear_problem(*sizes, dtype, b_row=True)
    assert (unit(problem), elementwise(problem)) == expected
    assert elementwise(replace(problem, alignment=8)) == (True, True)


def test_absence_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(hip: str | None, cuda: str | None, available: bool, target: Any) -> str:
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(holder, "active", SimpleNamespace(get_current_target=target))
        triton_runtime._device_missing.cache_clear()
        absence = BACKEND.absent("cuda")
        return "" if absence is None else absence.reason

    def no_compiler() -> None:
        raise RuntimeError("Failed to find C compiler")

    driver = pytest.importorskip("triton.runtime", reason="Triton is not installed").driver
    holder = type(driver) if hasattr(type(driver), "active") else driver
    try:
        assert "AMD" in reason("6.0", None, True, int)
        assert "without CUDA" in reason(None, None, False, int)
        assert "no CUDA device" in reason(None, "13.0", False, int)
        assert "C compiler" in reason(None, "13.0", True, no_compiler)
        assert reason(None, "13.0", True, int) == ""
    finally:
        triton_runtime._device_missing.cache_clear()


_ABSENT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "triton" or name.startswith("triton."):
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
from tilewright.kernels import registry
backend = registry.backend("matmul", "triton")
for kind in ("cuda", "cpu"):
    print(backend.absent(kind))
"""


@pytest.mark.parametrize("interpret", ["", "1"])
def test_without_triton(interpret: str) -> None:
    """The backend is listed and says what is missing; nothing is raised."""
    environment = {**os.environ, "TRITON_INTERPRET": interpret}
    ran = subprocess.run(
        [sys.executable, "-c", _ABSENT], capture_output=True, text=True, check=True, env=environment
    )
    cuda, cpu = ran.stdout.splitlines()
    assert "Triton cannot be imported" in cuda
    assert "pip install" in cuda
    assert ("pip install" if interpret else "TRITON_INTERPRET") in cpu


def test_asking_does_not_import_triton() -> None:
    code = (
        "import sys, torch; from tilewright.kernels.matmul.triton import BACKEND\n"
        "from tilewright.kernels.matmul.problem import MatmulProblem\n"
        "from tilewright.tuner.device import builtin\n"
        "p = MatmulProblem.from_tensors(torch.empty(64, 64), torch.empty(64, 64))\n"
        "assert list(BACKEND.configs(p, builtin('h100'))); BACKEND.absent('cpu')\n"
        "assert 'triton' not in sys.modules\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
