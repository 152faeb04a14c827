"""Convolutions as the cost model sees them, the vendor's above all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuner import fakes
from tilewright.kernels import registry
from tilewright.kernels.conv2d.aten import AtenConfig
from tilewright.kernels.conv2d.problem import Conv2dProblem, Layout, output_size, output_strides
from tilewright.kernels.interface import DeviceSpec
from tilewright.tuner.cost_model import expected_seconds
from tilewright.tuner.device import builtin

CPU = replace(
    fakes.DEVICE,
    arch="avx512",
    name="AMD EPYC",
    clock_hz=3.7e9,
    peak_fp32=4 * 277e9,
    peak_16bit=4 * 502e9,
    llc_bytes=32 << 20,
    launch_seconds=3e-6,
)
H100 = builtin("h100")
DEVICES = [CPU, H100]
PLAIN, PREPACKED = AtenConfig(), AtenConfig("onednn_prepacked")


def conv2d(
    c: int,
    size: int,
    k: int,
    kernel: int,
    *,
    n: int = 1,
    stride: int = 1,
    groups: int = 1,
    layout: Layout = "nhwc",
    **changes: Any,
) -> Conv2dProblem:
    pad = kernel // 2
    pads, out = (pad,) * 4, (size, size)
    if size:
        out = output_size((size, size), (kernel, kernel), (stride, stride), pads, (1, 1))
    shapes = (n, c, size, size), (k, c // groups, kernel, kernel), (n, k, *out)
    strides = [output_strides(shape, layout == "nhwc") for shape in shapes]
    problem = Conv2dProblem(
        device="cpu",
        direction="forward",
        batch=n,
        in_channels=c,
        out_channels=k,
        size=(size, size),
        out_size=out,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=pads,
        dilation=(1, 1),
        groups=groups,
        x_strides=strides[0],
        weight_strides=strides[1],
        y_strides=strides[2],
        bias_stride=1,
        residual_strides=None,
        dtype=torch.float32,
        bias_dtype=torch.float32,
        residual_dtype=None,
        activation="none",
        keep_preact=False,
        precision="ieee",
        deterministic=True,
        threads=4,
        alignment=0,
    )
    return replace(problem, **changes)


def seconds(problem: Conv2dProblem, config: AtenConfig = PLAIN, device: DeviceSpec = CPU) -> float:
    return expected_seconds("conv2d", "aten", config, replace(problem, device=device.kind), device)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("direction", ["forward", "input_gradient", "weight_gradient"])
@settings(deadline=None)
@given(
    c=st.integers(1, 4096),
    size=st.integers(0, 2000),
    k=st.integers(1, 4096),
    kernel=st.sampled_from([1, 2, 3, 7]),
    n=st.integers(0, 300),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int32]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    config=st.sampled_from(
        [PLAIN, PREPACKED, AtenConfig("convolution", "nchw"), AtenConfig("onednn", "nhwc")]
    ),
)
def test_times_are_positive_and_finite_for_any_size(
    device: DeviceSpec,
    direction: Any,
    c: int,
    size: int,
    k: int,
    kernel: int,
    n: int,
    dtype: torch.dtype,
    layout: Layout,
    config: AtenConfig,
) -> None:
    problem = conv2d(c, size, k, kernel, n=n, layout=layout, dtype=dtype, direction=direction)
    assert 0 < seconds(problem, config, device) < math.inf


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("direction", ["forward", "input_gradient", "weight_gradient"])
def test_no_prediction_beats_the_peak(device: DeviceSpec, direction: Any) -> None:
    for c, size, k, kernel in ((3, 224, 64, 7), (64, 56, 64, 3), (512, 7, 2048, 1), (1024, 64, 1024, 3)):
        problem = conv2d(c, size, k, kernel, n=8, direction=direction)
        assert seconds(problem, device=device) > problem.flops() / device.peak(problem.dtype)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_larger_batches_are_never_faster(device: DeviceSpec) -> None:
    for layout in ("nchw", "nhwc"):
        times = [seconds(conv2d(64, 56, 64, 3, n=n, layout=layout), device=device) for n in (1, 2, 8, 64)]
        assert times == sorted(times)


def test_a_prepacked_weight_saves_its_reordering() -> None:
    large, frozen = conv2d(512, 7, 512, 3), conv2d(512, 7, 512, 3, frozen_weight=True)
    assert seconds(large) > 1.5 * seconds(frozen, PREPACKED)
    # In one thread torch computes 1×1 windows by MKL, at a fraction of oneDNN's speed on AMD.
    pointwise = conv2d(64, 56, 256, 1, threads=1)
    assert seconds(pointwise) > 1.5 * seconds(replace(pointwise, frozen_weight=True), PREPACKED)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_nchw_and_copies_cost(device: DeviceSpec) -> None:
    for c, size, k, groups in ((64, 56, 64, 1), (144, 56, 144, 144), (128, 56, 128, 32)):
        last = conv2d(c, size, k, 3, n=8, groups=groups)
        nchw = conv2d(c, size, k, 3, n=8, groups=groups, layout="nchw")
        assert seconds(nchw, device=device) > seconds(last, device=device)
        assert seconds(last, AtenConfig("convolution", "nchw"), device) > seconds(last, device=device)


def test_ragged_channels_cost_in_nchw() -> None:
    """An NCHW stem pays to be copied into channels_last."""
    stem = conv2d(3, 224, 64, 7, stride=2, layout="nchw")
    assert seconds(stem) > seconds(stem, AtenConfig("convolution", "nhwc"))


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_what_is_not_fused_costs(device: DeviceSpec) -> None:
    plain = conv2d(64, 56, 64, 3, n=8)
    relu = replace(plain, activation="relu")
    added = replace(relu, residual_dtype=torch.float32, residual_strides=plain.y_strides)
    assert seconds(plain, device=device) < seconds(relu, device=device) < seconds(added, device=device)


def test_groups_and_depthwise_waste_the_units() -> None:
    def rate(problem: Conv2dProblem) -> float:
        return problem.flops() / seconds(problem)

    full, grouped, depthwise = (conv2d(128, 56, 128, 3, n=8, groups=groups) for groups in (1, 32, 128))
    assert rate(full) > 2 * rate(grouped)
    assert rate(full) > 2 * rate(depthwise)
    assert seconds(depthwise) < seconds(grouped) < seconds(full)


def test_fewer_threads_are_slower() -> None:
    one, four = (seconds(conv2d(128, 56, 128, 3, n=8, threads=threads)) for threads in (1, 4))
    assert 2 < one / four < 4.1


def test_our_own_kernel_is_modelled() -> None:
    """A model of its own, not the guess for backends that have none: that one knows no tiles."""
    problem, backend = conv2d(128, 56, 128, 3, n=8), registry.backend("conv2d", "cpu")
    configs = [config for config in backend.configs(problem, CPU) if config.algorithm == "direct"]
    if not configs:
        pytest.skip("the compiled core is not built")
    times = [expected_seconds("conv2d", "cpu", config, problem, CPU) for config in configs]
    assert len(set(times)) > 1
    assert min(times) > problem.flops() / CPU.peak_fp32
