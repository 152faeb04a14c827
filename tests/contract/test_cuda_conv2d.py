"""The CUDA convolutions' own turns, under the emulator: each width of copy, staged and packed operands, split sums, the
TMA's walk, every depthwise kernel. The contract test has the geometries; here are those that only these kernels tell
apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.contract.conv2d_cases import Case, problem_of, tensors
from tests.contract.subjects import EMULATING
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.cuda.config import CudaConfig
from tilewright.kernels.conv2d.cuda.plans import plan_of
from tilewright.kernels.conv2d.problem import output_strides
from tilewright.kernels.cuda import Instance, instances
from tilewright.kernels.cuda_emulated import EMULATED
from tilewright.kernels.dtypes import DTYPE_NAMES

if not EMULATING:
    pytest.skip("needs the emulator: make emulated", allow_module_level=True)

_BF16, _F16, _F32 = torch.bfloat16, torch.float16, torch.float32
_NHWC, _NCHW = ("nhwc", "nhwc"), ("nchw", "nchw")
_TMA = "implicit_gemm_tma"


def _run(
    case: Case, instance: Instance, split_k: int = 1, layout: str = "as_is", turn: int = 0
) -> str | None:
    """Runs the case by the instance and judges the outputs; returns why the instance refuses it, or None."""
    inputs = tensors(case, "cpu")
    problem = problem_of(case, inputs, precision="tf32" if instance.tf32 else "ieee")
    problem = replace(problem, device="cuda", alignment=16)
    algorithm, block_m, block_n, block_k, num_warps, num_stages, cluster = instance.tile
    config = CudaConfig(
        *(algorithm, block_m, block_n, block_k, 2, split_k, num_warps, num_stages, cluster, layout)
    )
    plan = plan_of(EMULATED, instance, config, problem)
    if plan.refusal is not None:
        return str(plan.refusal)
    module: Any = EMULATED.module()
    module.configure(seed=turn, completion=("deferred", "eager", "random")[turn % 3], bank_conflicts=True)
    module.reset()
    y = torch.full((1,), torch.nan, dtype=case.dtype).expand(problem.out_shape)
    y = torch.empty_strided(problem.out_shape, problem.out_strides, dtype=case.dtype).copy_(y)
    preact = torch.empty_like(y) if case.keep_preact else None
    scratch = torch.empty(plan.workspace_bytes, dtype=torch.uint8) if plan.workspace_bytes else None
    x, weight, bias, residual = inputs
    assert x is not None
    assert weight is not None
    EMULATED.starter(plan.run, str(case))(x, weight, y, preact, bias, residual, scratch)
    counted = module.counters()
    module.configure()
    assert oracle(problem, inputs)((y,) if preact is None else (y, preact)) is None, config
    assert not any(counted["errors"].values())
    assert not counted["ldmatrix_conflicts"] + counted["copy_conflicts"], config
    return None


def _compiled(algorithm: str, dtype: torch.dtype) -> list[Instance]:
    return [
        each
        for each in instances(EMULATED, "conv2d")
        if each.algorithm == algorithm and each.dtype == DTYPE_NAMES[dtype]
    ]


# Whatever the tile, these are copied 16 bytes at a time. Windows of more than 32 taps a side are wider than bit masks.
_VECTORS = [
    Case("many_tiles", x=(3, 16, 13, 12), channels=136, padding=(1, 1, 1, 1)),
    Case("wide_window", x=(1, 8, 4, 47), channels=24, kernel=(1, 40), padding=(0, 0, 3, 2)),
    Case("tall_window", x=(1, 8, 39, 3), channels=9, kernel=(35, 2), padding=(4, 0, 0, 1), stride=(3, 1)),
    Case(
        "apart",
        x=(2, 16, 13, 12),
        channels=20,
        kernel=(3, 2),
        dilation=(2, 3),
        stride=(2, 1),
        padding=(2, 0, 1, 3),
    ),
    Case("groups", x=(2, 48, 7, 8), channels=24, groups=3, padding=(1, 1, 1, 1)),
    Case("uneven_groups", x=(2, 24, 7, 6), channels=15, groups=3, padding=(0, 1, 1, 0)),
]
_NARROW = [
    Case("four_channels", x=(2, 4, 13, 11), channels=10, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    Case("twelve_channels", x=(1, 12, 9, 10), channels=34, padding=(1, 0, 1, 0)),
    Case("groups_of_four", x=(2, 8, 6, 7), channels=18, groups=2, padding=(1, 1, 1, 1)),
    Case("three_channels", x=(2, 3, 13, 11), channels=17, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    Case("groups_of_five", x=(2, 15, 6, 8), channels=24, groups=3, padding=(1, 1, 1, 1)),
]
_EPILOGUES: list[dict[str, Any]] = [
    {},
    {"bias": _F32, "activation": "relu"},
    {"bias": _BF16, "residual": _BF16, "residual_layout": "nhwc", "activation": "gelu", "keep_preact": True},
    {"residual": _F32, "residual_layout": "one_per_channel", "activation": "silu"},
]


def _turned(cases: list[Case], dtype: torch.dtype) -> Iterator[Any]:
    for turn, case in enumerate(cases):
        for layouts in (_NHWC, _NCHW, ("nhwc", "nchw")):
            epilogue = _EPILOGUES[(turn + len(layouts[0] + layouts[1])) % len(_EPILOGUES)]
            posed = replace(case, dtype=dtype, layouts=layouts, **epilogue)
            yield pytest.param(posed, id=f"{case.name}-{DTYPE_NAMES[dtype]}-{'-'.join(layouts)}")


_POSED = [param for dtype in (_BF16, _F32) for param in _turned(_VECTORS + _NARROW, dtype)]
_POSED += list(_turned(_VECTORS[:1] + _NARROW[:1] + _NARROW[3:4], _F16))


@pytest.mark.parametrize("case", _POSED)
def test_every_tile_with_every_width_of_copy(case: Case) -> None:
    ran = 0
    for turn, instance in enumerate(_compiled("implicit_gemm", case.dtype)):
        for split_k, layout in ((1, "as_is"), (3, "as_is"), (1, "nhwc"), (2, "nhwc")):
            if (turn + split_k) % 2 == 0 and ran > 4:
                continue  # a half of them, once the small tiles have had them all
            refusal = _run(case, instance, split_k, layout, turn)
            ran += refusal is None
            assert refusal is None or "copies" in refusal
    assert ran >= 4


# Tiles that end within rows and images.
_WALKED = [
    Case("same", x=(1, 72, 23, 22), channels=72, padding=(1, 1, 1, 1)),
    Case("strided", x=(3, 40, 25, 27), channels=136, stride=(2, 3), padding=(1, 1, 2, 2)),
    Case("apart", x=(2, 96, 19, 23), channels=48, kernel=(3, 2), dilation=(2, 3), padding=(2, 1, 3, 0)),
    Case("pointwise", x=(2, 136, 16, 17), channels=264, kernel=(1, 1)),
    Case("many_images", x=(20, 64, 6, 5), channels=33, padding=(1, 1, 1, 1)),
    Case("one_row", x=(1, 8, 1, 2200), channels=16, kernel=(1, 7), padding=(0, 0, 3, 3)),
]


@pytest.mark.parametrize("dtype", [_BF16, _F16, _F32], ids=DTYPE_NAMES.get)
@pytest.mark.parametrize("geometry", _WALKED, ids=lambda case: case.name)
def test_the_tma_walks_windows(geometry: Case, dtype: torch.dtype) -> None:
    for turn, instance in enumerate(_compiled(_TMA, dtype)):
        at = turn + _WALKED.index(geometry)
        case = replace(geometry, dtype=dtype, layouts=_NHWC, **_EPILOGUES[at % len(_EPILOGUES)])
        assert _run(case, instance, turn=at) is None
        if at % 3 == 0:
            staged = replace(case, layouts=_NCHW, channels_last=True)
            assert _run(staged, instance, layout="nhwc", turn=at) is None


_REFUSED = {
    "one group": Case("", x=(1, 128, 33, 32), channels=64, groups=2),
    "channels_last": Case("", x=(1, 64, 33, 32), layouts=_NCHW),
    "multiples of 16 bytes": Case("", x=(1, 65, 33, 32)),
    "steps of at most 8": Case("", x=(1, 64, 33, 32), stride=(9, 1)),
    "at most 255 pixels": Case("", x=(1, 8, 1, 9000), kernel=(1, 3), dilation=(1, 128)),
    "127 pixels": Case("", x=(1, 8, 1, 9000), kernel=(1, 1), padding=(0, 0, 129, 0)),
    "evenly apart": Case("", x=(2, 64, 33, 32), residual=_BF16, residual_layout="nchw"),
}


@pytest.mark.parametrize("sentence", _REFUSED)
def test_what_the_tma_does_not_walk_is_refused(sentence: str) -> None:
    case = replace(_REFUSED[sentence], dtype=_BF16)
    case = case if case.layouts == _NCHW and sentence == "channels_last" else replace(case, layouts=_NHWC)
    refusal = _run(case, _compiled(_TMA, _BF16)[0])
    assert sentence in str(refusal)


_DEPTHWISE = [
    Case("three", x=(2, 40, 9, 7), channels=40, groups=40, padding=(1, 1, 1, 1)),
    Case("three_strided", x=(2, 16, 9, 10), channels=16, groups=16, padding=(1, 1, 1, 1), stride=(2, 2)),
    Case("five", x=(1, 72, 8, 9), channels=72, groups=72, kernel=(5, 5), padding=(2, 2, 2, 2)),
    Case("dilated", x=(1, 8, 9, 11), channels=8, groups=8, dilation=(2, 3), padding=(2, 2, 3, 3)),
    Case("in_slices", x=(1, 128, 3, 6), channels=128, groups=128, kernel=(11, 13), padding=(5, 5, 6, 6)),
    Case("three_outputs", x=(1, 24, 6, 7), channels=72, groups=24, padding=(1, 1, 1, 1)),
    Case("groups_of_three", x=(2, 12, 6, 7), channels=20, groups=4, padding=(1, 1, 1, 1), stride=(1, 2)),
    Case("odd_channels", x=(2, 35, 6, 7), channels=35, groups=35, kernel=(2, 3), padding=(1, 0, 1, 1)),
]


@pytest.mark.parametrize("dtype", [_BF16, _F16, _F32], ids=DTYPE_NAMES.get)
@pytest.mark.parametrize("geometry", _DEPTHWISE, ids=lambda case: case.name)
def test_depthwise(geometry: Case, dtype: torch.dtype) -> None:
    (instance,) = _compiled("depthwise", dtype)
    for turn, layouts in enumerate((_NHWC, _NCHW, ("strided", "nchw"))):
        for epilogue in _EPILOGUES[turn % 2 :: 2]:
            assert (
                _run(replace(geometry, dtype=dtype, layouts=layouts, **epilogue), instance, turn=turn) is None
            )


def test_a_frozen_weight_is_kept_in_channels_last() -> None:
    from tilewright.kernels.conv2d.cuda_emulated import BACKEND
    from tilewright.kernels.frozen import FrozenOperand

    case = Case(
        "frozen", x=(1, 16, 6, 7), channels=24, padding=(1, 1, 1, 1), dtype=_BF16, layouts=("nhwc", "nchw")
    )
    inputs = tensors(case, "cpu")
    problem = replace(problem_of(case, inputs, frozen_weight=True), alignment=16)
    tile = _compiled("implicit_gemm", _BF16)[-1].tile
    config = CudaConfig(*tile[:4], 1, 1, *tile[4:])
    assert inputs[0] is not None
    assert inputs[1] is not None
    weight = FrozenOperand(inputs[1])
    launch = BACKEND.bind(config, problem)
    for _ in range(2):
        assert oracle(problem, inputs)((launch(inputs[0], weight),)) is None
    (kept,) = weight.forms.values()
    assert kept.stride() == output_strides(case.weight, True)
