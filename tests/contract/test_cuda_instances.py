"""Every CUDA instance runs under the emulator, on a problem of its own: right, without a report, without a conflict.

The contract tests take what a choice would take; here nothing that was compiled is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.subjects import EMULATING
from tilewright.kernels.conv2d import bound as conv2d_bound
from tilewright.kernels.conv2d.cuda import plans as conv2d_plans
from tilewright.kernels.conv2d.cuda.config import CudaConfig as Conv2dConfig
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cuda import Instance, instances
from tilewright.kernels.cuda_emulated import EMULATED
from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.kernels.matmul import bound as matmul_bound
from tilewright.kernels.matmul.cuda import plans as matmul_plans
from tilewright.kernels.matmul.cuda.config import CudaConfig as MatmulConfig
from tilewright.kernels.matmul.problem import MatmulProblem

if not EMULATING:
    pytest.skip("needs the emulator: make emulated", allow_module_level=True)

_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_MODES = (
    {"seed": 0, "completion": "deferred"},
    {"seed": 1, "completion": "random"},
    {"seed": 2, "completion": "eager"},
)


def _name(instance: Instance) -> str:
    algorithm, *numbers = instance.tile
    kind = "tf32" if instance.tf32 else instance.dtype
    layouts = f"{instance.a_layout}-{instance.b_layout}-" if instance.a_layout else ""
    return f"{algorithm}-{kind}-{layouts}{instance.copy_bytes}-{'x'.join(map(str, numbers))}"


def _each(operation: str) -> list[Any]:
    return [pytest.param(each, id=_name(each)) for each in instances(EMULATED, operation)]


@pytest.fixture(params=_MODES, ids=lambda mode: mode["completion"])
def emulator(request: pytest.FixtureRequest) -> Any:
    module: Any = EMULATED.module()
    module.configure(**request.param, bank_conflicts=True)
    module.reset()
    yield module
    module.configure()


def test_there_are_instances() -> None:
    for operation in ("matmul", "conv2d"):
        assert len(instances(EMULATED, operation)) > 20


def _operand(rows: int, cols: int, layout: str, instance: Instance, scale: float) -> Tensor:
    """(rows, cols) with the layout, its leading stride no more even than the instance's copies need."""
    dtype = _DTYPES[instance.dtype]
    outer, inner = (rows, cols) if layout != "col" else (cols, rows)
    unit = max(instance.copy_bytes // dtype.itemsize, 1)
    lead = inner + unit
    if instance.copy_bytes < 16 and lead % (2 * unit) == 0:
        lead += unit
    stored = (torch.randn(outer, lead) * scale).to(dtype)[:, :inner]
    return stored if layout != "col" else stored.t()


def _conflicts(counted: dict[str, Any]) -> dict[str, int]:
    return {name: counted[name] for name in ("ldmatrix_conflicts", "copy_conflicts", "stmatrix_conflicts")}


@pytest.mark.parametrize("instance", _each("matmul"))
def test_matmul(instance: Instance, emulator: Any) -> None:
    unit = max(instance.copy_bytes // _DTYPES[instance.dtype].itemsize, 1)
    # A whole tile and a ragged one each way, and more steps than stages; few rows where no more are taken.
    skinny = instance.algorithm == "skinny"
    m = min(instance.block_m, 16) if skinny else instance.block_m + 3 * unit
    n = instance.block_n + 5 * unit
    k = min((instance.num_stages + 1) * instance.block_k, 384) + unit
    a = _operand(m, k, instance.a_layout, instance, 1.0)
    b = _operand(k, n, instance.b_layout, instance, k**-0.5)
    bias, residual = torch.randn(n), torch.randn(m, n).to(a.dtype)
    problem = MatmulProblem.from_tensors(
        *(a, b, bias, residual),
        activation="gelu",
        keep_preact=True,
        precision="tf32" if instance.tf32 else "ieee",
    )
    problem = replace(problem, device="cuda", alignment=max(instance.copy_bytes, a.itemsize))
    algorithm, block_m, block_n, block_k, num_warps, num_stages, cluster = instance.tile
    for split_k in (1, 2):
        config = MatmulConfig(
            *(algorithm, block_m, block_n, block_k, 2, split_k, num_warps, num_stages, cluster)
        )
        plan = matmul_plans.plan_of(EMULATED, instance, config, problem)
        if plan.refusal is not None and split_k > 1:
            continue
        assert plan.refusal is None
        y, preact = torch.empty(m, n, dtype=a.dtype), torch.empty(m, n, dtype=a.dtype)
        start = EMULATED.starter(plan.run, _name(instance))
        start(a, b, y, preact, bias, residual, _scratch(plan))
        assert matmul_bound.oracle(problem, (a, b, bias, residual))((y, preact)) is None
    counted = emulator.counters()
    assert counted["launches"] > 0
    assert not any(counted["errors"].values())
    assert not any(_conflicts(counted).values()), _conflicts(counted)


@pytest.mark.parametrize("instance", _each("conv2d"))
def test_conv2d(instance: Instance, emulator: Any) -> None:
    dtype = _DTYPES[instance.dtype]
    depthwise = instance.algorithm.startswith("depthwise")
    channels = 72 if depthwise else 64
    outputs = channels if depthwise else instance.block_n + 8
    height = 5 + instance.block_m // 18  # of two images, so that a tile of pixels spans both
    make = {"memory_format": torch.channels_last}
    x = torch.randn(2, channels, height, 9).to(dtype).contiguous(**make)
    weight = (torch.randn(outputs, 1 if depthwise else channels, 3, 3) / 20).to(dtype).contiguous(**make)
    bias = torch.randn(outputs)
    residual = torch.randn(2, outputs, height, 9).to(dtype).contiguous(**make)
    inputs = (x, weight, bias, residual)
    problem = Conv2dProblem.from_tensors(
        *inputs,
        padding=(1, 1, 1, 1),
        groups=channels if depthwise else 1,
        activation="silu",
        keep_preact=True,
        precision="tf32" if instance.tf32 else "ieee",
    )
    problem = replace(problem, device="cuda", alignment=16)
    algorithm, block_m, block_n, block_k, num_warps, num_stages, cluster = instance.tile
    for split_k in (1, 2):
        config = Conv2dConfig(
            *(algorithm, block_m, block_n, block_k, 2, split_k, num_warps, num_stages, cluster)
        )
        plan = conv2d_plans.plan_of(EMULATED, instance, config, problem)
        if plan.refusal is not None and split_k > 1:
            continue
        assert plan.refusal is None
        y = torch.empty_strided(problem.out_shape, problem.out_strides, dtype=dtype)
        preact = torch.empty_like(y)
        start = EMULATED.starter(plan.run, _name(instance))
        start(x, weight, y, preact, bias, residual, _scratch(plan))
        assert conv2d_bound.oracle(problem, inputs)((y, preact)) is None
    counted = emulator.counters()
    assert counted["launches"] > 0
    assert not any(counted["errors"].values())
    assert not any(_conflicts(counted).values()), _conflicts(counted)


def _scratch(plan: Any) -> Tensor | None:
    return torch.empty(plan.workspace_bytes, dtype=torch.uint8) if plan.workspace_bytes else None
