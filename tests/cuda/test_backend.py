"""The backends cuda and cuda_emulated without a GPU: why they are absent, what they refuse, how they are named."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tilewright
from tests.contract.subjects import EMULATING
from tilewright.errors import DeviceError
from tilewright.kernels import cuda, cuda_emulated, registry
from tilewright.kernels.conv2d.cuda.config import CudaConfig as Conv2dConfig
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cuda import Instance, runs_on, unfit_device
from tilewright.kernels.matmul.cuda.config import CudaConfig as MatmulConfig
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.tuner import device
from tilewright.tuner.select import candidates

needs_emulator = pytest.mark.skipif(not EMULATING, reason="TILEWRIGHT_EMULATOR is not set")
OPERATIONS = ("matmul", "conv2d")


def _problem(operation: str, dtype: torch.dtype = torch.bfloat16, **fields: Any) -> Any:
    if operation == "matmul":
        problem: Any = MatmulProblem.from_tensors(
            torch.ones(40, 64, dtype=dtype), torch.ones(64, 72, dtype=dtype)
        )
    else:
        x, weight = torch.ones(2, 8, 9, 9, dtype=dtype), torch.ones(16, 8, 3, 3, dtype=dtype)
        problem = Conv2dProblem.from_tensors(x, weight)
    return replace(problem, **fields)


@pytest.mark.parametrize(
    ("arch", "runs", "does_not"),
    [
        ("sm_80", (80, 86, 89), (75, 90, 100, 120)),
        ("sm_86", (86, 89), (80, 90)),
        ("sm_90a", (90,), (89, 100)),
        ("sm_100", (100, 103), (90, 120)),
        ("compute_80", (80, 90, 120), (75,)),
        ("compute_100", (100, 120), (90,)),
    ],
)
def test_what_machine_code_runs_on(arch: str, runs: tuple[int, ...], does_not: tuple[int, ...]) -> None:
    assert all(runs_on(arch, capability) for capability in runs)
    assert not any(runs_on(arch, capability) for capability in does_not)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_absence_names_a_reason_and_a_remedy(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = registry.backend(operation, "cuda")
    assert "GPUs only" in str(backend.absent("cpu"))
    built = {"cuda": False, "cuda_absent": "nvcc was not found", "cuda_archs": []}
    module = SimpleNamespace(build_info=lambda: built)
    monkeypatch.setattr(cuda, "core", lambda: module)
    assert str(backend.absent("cuda")).startswith(
        "tilewright was built without CUDA (nvcc was not found); pip install"
    )
    monkeypatch.setattr(cuda, "core", lambda: None)
    assert "was not built" in str(backend.absent("cuda"))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_explaining_for_a_gpu_that_is_not_here_says_what_is_unknown(operation: str) -> None:
    if registry.backend(operation, "cuda").absent("cuda") is None:
        pytest.skip("the CUDA kernels are built in")
    listed = candidates(
        _problem(operation, device="cuda", alignment=16, threads=0), operation, device.builtin("h100")
    )
    assert any(each.backend == "cuda" and "without CUDA" in each.reason for each in listed)


_INSTANCE = Instance(0, "tiled", 80, False, "bf16", False, 64, 64, 32, 4, 3, 1, 128, 48 << 10)


@pytest.mark.parametrize(
    ("changed", "where", "expected"),
    [
        ({}, "h100", None),
        ({}, "a100", None),
        ({"capability": 90, "exact_architecture": True}, "h100", None),
        (
            {"capability": 90, "exact_architecture": True},
            "a100",
            "is written for sm_90a alone, the device is sm_80",
        ),
        (
            {"capability": 90, "exact_architecture": True},
            "b200",
            "is written for sm_90a alone, the device is sm_100",
        ),
        ({"capability": 90}, "l4", "needs sm_90 or newer, the device is sm_89"),
        ({"shared_bytes": 160 << 10}, "l4", "needs 160 KB of shared memory, the device has 99 KB"),
    ],
)
def test_what_an_instance_needs_of_a_device(
    changed: dict[str, Any], where: str, expected: str | None
) -> None:
    spec = device.builtin(where)
    assert unfit_device(replace(_INSTANCE, **changed), cuda_emulated.EMULATED, spec) == expected


def test_code_for_other_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(build_info=lambda: {"cuda": True, "cuda_archs": ["sm_80"]})
    monkeypatch.setattr(cuda, "core", lambda: module)
    assert unfit_device(_INSTANCE, cuda.GPU, device.builtin("a100")) is None
    refused = unfit_device(_INSTANCE, cuda.GPU, device.builtin("h100"))
    assert refused is not None
    assert refused.startswith("was built for sm_80, none of which runs on sm_90")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_emulator_is_no_candidate_unless_it_is_named(operation: str) -> None:
    assert "cuda_emulated" not in registry.backends(operation)
    assert registry.test_backends(operation) == ("cuda_emulated",)
    assert registry.backend(operation, "cuda_emulated").name == "cuda_emulated"
    listed = candidates(_problem(operation), operation, device.current("cpu"))
    assert "cuda_emulated" not in {each.backend for each in listed}


def test_without_its_module_the_emulator_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv(cuda_emulated.VARIABLE, str(tmp_path))
    absence = registry.backend("matmul", "cuda_emulated").absent("cpu")
    assert "make emulated" in str(absence)
    with (
        tilewright.options(backend="cuda_emulated", strict=True),
        pytest.raises(DeviceError, match="make emulated"),
    ):
        tilewright.matmul(torch.ones(2, 3), torch.ones(3, 2))


@needs_emulator
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_emulator_serves_ordinary_calls(dtype: torch.dtype) -> None:
    a, b = torch.randn(20, 24).to(dtype), torch.randn(24, 40).to(dtype)
    with tilewright.options(backend="cuda_emulated", strict=True):
        explained = str(tilewright.explain("matmul", a, b))
        y = tilewright.matmul(a[:, 1:], b[1:])  # begins between two 16-byte vectors
    assert "cuda_emulated" in explained
    torch.testing.assert_close(y, a[:, 1:] @ b[1:], rtol=2e-2, atol=2e-2)


@needs_emulator
@pytest.mark.parametrize("operation", OPERATIONS)
def test_configs_from_a_file_are_refused_not_raised_on(operation: str) -> None:
    backend, here = registry.backend(operation, "cuda_emulated"), device.current("cpu")
    problem = _problem(operation)
    good = next(iter(backend.configs(problem, here)))
    assert backend.rejects(good, problem, here) is None
    for change in (
        {"block_m": 12345},
        {"block_n": -1},
        {"block_k": "64"},
        {"algorithm": "magic"},
        {"algorithm": 3},
        {"num_stages": True},
        {"split_k": 0},
        {"split_k": 64},
        {"split_k": 10**9},
        {"group_m": 0},
        {"cluster": 1 << 40},
    ):
        assert backend.rejects(replace(good, **change), problem, here), change
    assert backend.rejects("nonsense", problem, here)
    ieee = _problem(operation, torch.float32)
    assert "tf32" in str(backend.rejects(replace(good, block_k=good.block_k), ieee, here))
    for dtype in (torch.float64, torch.int8):
        assert backend.rejects(good, replace(problem, dtype=dtype), here)
    assert backend.rejects(good, replace(problem, activation="swish"), here)


@needs_emulator
def test_gradients_of_a_convolution_are_refused_in_a_sentence() -> None:
    x, weight = torch.ones(2, 8, 9, 9).bfloat16(), torch.ones(16, 8, 3, 3).bfloat16()
    grad = torch.ones(2, 16, 7, 7).bfloat16()
    problem = Conv2dProblem.from_tensors(x.shape, weight, grad=grad)
    backend, here = registry.backend("conv2d", "cuda_emulated"), device.current("cpu")
    assert not list(backend.configs(problem, here))
    config = next(iter(backend.configs(Conv2dProblem.from_tensors(x, weight), here)))
    assert backend.rejects(config, problem, here) == "computes convolutions, not the gradient of their input"


@needs_emulator
def test_a_failing_launch_names_kernel_config_and_problem() -> None:
    instance = cuda.instances(cuda_emulated.EMULATED, "matmul")[0]
    module: Any = cuda_emulated.emulator()
    with pytest.raises(ValueError, match="m is missing"):
        module.CudaMatmulPlan(instance=instance.index, label="x")
    backend, here = registry.backend("matmul", "cuda_emulated"), device.current("cpu")
    problem = _problem("matmul")
    config = next(iter(backend.configs(problem, here)))
    launch = backend.bind(config, problem)
    # Operands smaller than the problem says: a read out of bounds.
    with pytest.raises(DeviceError) as caught:
        launch(torch.ones(8, 64).bfloat16(), torch.ones(64, 72).bfloat16())
    for part in (str(config), problem.describe().split(" ")[1], "out", "block (", "thread"):
        assert part in str(caught.value)


def test_configs_print_in_one_line() -> None:
    matmul = MatmulConfig("tiled", 128, 128, 32, 8, 1, 8, 4)
    assert str(matmul) == "tiled 128x128x32 g8 k1 w8 s4"
    assert str(replace(matmul, cluster=2)) == "tiled 128x128x32 g8 k1 w8 s4 c2"
    conv2d = Conv2dConfig("implicit_gemm", 128, 64, 32, 8, 2, 4, 4, layout="nhwc")
    assert str(conv2d) == "implicit_gemm 128x64x32 g8 k2 w4 s4 nhwc"


def _matmul(m: int, n: int, k: int) -> MatmulProblem:
    a, b = (
        torch.empty(m, k, dtype=torch.bfloat16, device="meta"),
        torch.empty(k, n, dtype=torch.bfloat16, device="meta"),
    )
    return replace(MatmulProblem.from_tensors(a, b), alignment=16)


def test_predictions_are_no_faster_than_the_hardware_and_know_the_matrix_units() -> None:
    from tilewright.tuner.cost_model import expected_seconds

    h100, large, vector = device.builtin("h100"), _matmul(8192, 8192, 8192), _matmul(1, 8192, 8192)
    tiled = MatmulConfig("tiled", 128, 256, 64, 8, 1, 8, 3)
    wgmma = MatmulConfig("cooperative", 128, 256, 64, 8, 1, 12, 4, 2)
    skinny = MatmulConfig("skinny", 8, 16, 1024, 1, 1, 8, 2)
    slow, fast = (expected_seconds("matmul", "cuda", each, large, h100) for each in (tiled, wgmma))
    assert large.flops() / h100.peak_16bit < fast < slow
    streamed, padded = (expected_seconds("matmul", "cuda", each, vector, h100) for each in (skinny, tiled))
    assert vector.bytes() / h100.bandwidth < streamed < padded
