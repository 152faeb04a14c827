"""Winograd's convolution at every ISA level, against float64 with its own bound; and who admits it."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from torch import Tensor

import tilewright
from tests.cpu.conv2d_support import Case, layer, random_case
from tests.cpu.support import DTYPES, LEVELS, spec
from tilewright.kernels.conv2d import winograd
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.cpu import BACKEND, CpuConfig, geometry
from tilewright.kernels.conv2d.cpu.config import workspace_bytes
from tilewright.kernels.conv2d.cpu.winograd import ALGORITHMS
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.frozen import FrozenOperand

PADDED = {"padding": (1, 1, 1, 1), "precision": "tf32"}
PLAIN = CpuConfig("direct", "portable", 1, 1, 1)  # whose bound is that of a plain sum


def config_of(isa: str, algorithm: str = "winograd_fused", **fields: Any) -> CpuConfig:
    sizes = {"block_h": 1, "block_w": 9, "block_n": 32, "parts": 1, **fields}
    return CpuConfig(algorithm, isa, **sizes)


def any_config(pick: random.Random, isa: str, **fields: Any) -> CpuConfig:
    sizes = {
        "block_w": pick.randint(1, 33),
        "block_n": pick.choice((1, 16, 64, 256)),
        "parts": pick.randint(1, 3),
    }
    return config_of(isa, pick.choice(ALGORITHMS), **{**sizes, **fields})


def winograd_case(pick: random.Random, dtype: torch.dtype) -> Case:
    """Any geometry that has these transforms."""
    case = random_case(pick, dtype)
    n, _, h, w = case.x.shape
    groups, parameters = case.parameters["groups"], dict(case.parameters)
    c, k = groups * pick.choice((1, 3, 16, 17, 70)), groups * pick.choice((1, 7, 31, 32, 40, 65))
    padding = tuple(pick.choice((0, 1, 1, 2, 4)) for _ in range(4))
    h, w = max(h, 3 - padding[0] - padding[1]), max(w, 3 - padding[2] - padding[3])
    parameters |= {"padding": padding, "stride": (1, 1), "dilation": (1, 1), "precision": "tf32"}
    layout = pick.choice(("nchw", "nhwc", "strided"))
    case = layer((n, c, h, w), k, dtype=dtype, layout=layout, bias=pick.random() < 0.6, **parameters)
    if pick.random() < 0.3:
        case.weight = case.weight.to(memory_format=torch.channels_last)
    if pick.random() < 0.5:
        out = case.problem().out_size
        case.residual = torch.randn(pick.choice(((n, k, *out), (1, k, 1, 1), (k, out[0], 1), (out[1],)))).to(
            dtype
        )
    return case


def check(case: Case, config: CpuConfig, **changes: Any) -> None:
    problem = case.problem(frozen_weight=config.pack == "frozen", **changes)
    result = case.run(config, **changes)
    outputs = result if isinstance(result, tuple) else (result,)
    verdict = oracle(problem, (case.x, case.weight, case.bias, case.residual), config)(outputs)
    assert verdict is None, f"{config} on {problem.describe()}: {verdict}"


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_geometry(isa: str, dtype: torch.dtype) -> None:
    pick = random.Random(f"{isa} {dtype}")
    torch.manual_seed(0)
    for _ in range(40):
        check(winograd_case(pick, dtype), any_config(pick, isa, pack=pick.choice(("shared", "frozen"))))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_edge_of_the_last_tiles(isa: str, layout: str) -> None:
    for height in range(1, 10):
        for width in (1, 2, 3, 4, 7, 30):
            check(layer((2, 5, height, width), 18, layout=layout, **PADDED), config_of(isa, block_w=5))


@pytest.mark.parametrize("isa", LEVELS)
def test_sums_of_many_channels(isa: str) -> None:
    case = layer((1, 513, 6, 9), 33, activation="gelu", **PADDED)
    for algorithm in ALGORITHMS:
        check(case, config_of(isa, algorithm, block_w=6))


@pytest.mark.parametrize("isa", LEVELS)
def test_no_input_channels_leaves_the_bias(isa: str) -> None:
    for algorithm in ALGORITHMS:
        check(layer((1, 0, 4, 4), 3, **PADDED), config_of(isa, algorithm))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_threads_parts_and_forms_decide_no_bit(isa: str, layout: str) -> None:
    case = layer((2, 19, 11, 23), 70, layout=layout, activation="gelu", **PADDED)
    expected = case.run(config_of(isa, block_n=256), threads=1)
    assert isinstance(expected, Tensor)
    for algorithm in ALGORITHMS:
        for block_n, parts, threads in ((32, 1, 1), (64, 2, 2), (1, 3, 4), (32, 1, 3)):
            for pack in ("shared", "frozen"):
                config = config_of(isa, algorithm, block_n=block_n, parts=parts, pack=pack)
                found = case.run(config, threads=threads)
                assert isinstance(found, Tensor)
                assert torch.equal(found, expected), config


@pytest.mark.parametrize("isa", LEVELS)
def test_both_algorithms_share_one_transformed_weight(isa: str) -> None:
    case = layer((1, 8, 9, 9), 12, **PADDED)
    operand = FrozenOperand(case.weight)
    for algorithm in ALGORITHMS:
        config = config_of(isa, algorithm, pack="frozen")
        BACKEND.bind(config, case.problem(frozen_weight=True))(case.x, operand, case.bias, None)
    assert len(operand.forms) == 1
    direct = CpuConfig("direct", isa, 4, 4, 32, pack="frozen")
    BACKEND.bind(direct, case.problem(frozen_weight=True))(case.x, operand, case.bias, None)
    assert len(operand.forms) == 2


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_input_gradient_is_a_convolution_with_the_flipped_kernel(isa: str, dtype: torch.dtype) -> None:
    pick = random.Random(0)
    for _ in range(20):
        case = winograd_case(pick, dtype)
        grad = torch.randn(case.problem().y_shape).to(dtype)
        if pick.random() < 0.5:
            grad = grad.to(memory_format=torch.channels_last)
        problem = Conv2dProblem.from_tensors(
            case.x.shape,
            case.weight,
            grad=grad,
            threads=2,
            padding=case.parameters["padding"],
            groups=case.parameters["groups"],
            precision="tf32",
        )
        config = any_config(pick, isa)
        assert BACKEND.rejects(config, problem, spec(isa)) is None
        dx = BACKEND.bind(config, problem)(grad, case.weight)
        verdict = oracle(problem, (grad, case.weight), config)((dx,))
        assert verdict is None, f"{config} on {problem.describe()}: {verdict}"


@pytest.mark.parametrize("isa", LEVELS)
def test_errors_on_random_operands_stay_within_what_tf32_admits_of_any_kernel(isa: str) -> None:
    torch.manual_seed(0)
    for channels in (3, 64, 256):
        case = layer((2, channels, 14, 14), 40, **PADDED)
        y, operands = case.run(config_of(isa)), (case.x, case.weight, case.bias, None)
        assert oracle(case.problem(), operands, PLAIN)((y,)) is None


def _offset(x: Tensor) -> None:
    x += 1e4


def _mixed(x: Tensor) -> None:
    x *= 10.0 ** torch.randint(-6, 7, x.shape)


def _lonely(x: Tensor) -> None:
    x[0, :, 3, 3] = 1e8


def _alternating(x: Tensor) -> None:
    x.abs_()
    x[..., ::2] *= -1e3


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("spoil", [_offset, _mixed, _lonely, _alternating])
def test_errors_on_adversarial_operands_stay_within_its_own_bound(isa: str, spoil: Any) -> None:
    torch.manual_seed(0)
    for layout in ("nchw", "nhwc"):
        case = layer((1, 24, 13, 11), 34, layout=layout, **PADDED)
        spoil(case.x)
        check(case, config_of(isa))
        spoil(case.weight) if spoil is not _lonely else None
        check(case, config_of(isa))


@pytest.mark.parametrize("isa", LEVELS)
def test_a_large_value_drowns_its_neighbours_in_the_tile(isa: str) -> None:
    """Why the user has to admit it: a pixel that never meets the value errs by more than a plain sum may."""
    case = layer((1, 8, 8, 8), 8, bias=False, **PADDED)
    case.x[0, :, 0, 0] = 1e8
    y = case.run(config_of(isa))
    assert isinstance(y, Tensor)
    operands = case.x, case.weight, None, None
    assert oracle(case.problem(), operands, PLAIN)((y,)) is not None
    assert oracle(case.problem(), operands, config_of(isa))((y,)) is None
    assert oracle(case.problem(), operands)((y,)) is None  # as tuning sees it
    assert oracle(case.problem(precision="ieee"), operands)((y,)) is not None
    # Other tiles know nothing of it.
    torch.testing.assert_close(
        y[..., 4:, 4:], torch.nn.functional.conv2d(case.x, case.weight, padding=1)[..., 4:, 4:]
    )


@pytest.mark.parametrize("isa", LEVELS)
def test_nan_stays_in_the_tiles_whose_patches_hold_it(isa: str) -> None:
    case = layer((1, 4, 16, 16), 6, **PADDED)
    case.x[0, 2, 5, 6] = float("nan")  # seen by the tile of rows and columns 4 to 7 alone
    y = case.run(config_of(isa))
    assert isinstance(y, Tensor)
    expected = torch.nn.functional.conv2d(case.x, case.weight, case.bias, padding=1)
    assert y[expected.isnan()].isnan().all()
    y[..., 4:8, 4:8] = expected[..., 4:8, 4:8] = 0
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("isa", LEVELS)
def test_only_the_users_precision_admits_it(isa: str) -> None:
    case = layer((2, 64, 28, 28), 64, **PADDED)
    exact, admitted = case.problem(precision="ieee"), case.problem()
    config = config_of(isa)
    refusal = BACKEND.rejects(config, exact, spec(isa))
    assert refusal is not None
    assert "precision='tf32'" in refusal
    assert BACKEND.rejects(config, admitted, spec(isa)) is None
    first, *_, last = BACKEND.configs(exact, spec(isa))
    assert (first.algorithm, last.algorithm) == ("direct", ALGORITHMS[0])  # named, with the reason why not
    assert BACKEND.rejects(last, exact, spec(isa)) == refusal
    assert next(iter(BACKEND.configs(admitted, spec(isa)))).algorithm in ALGORITHMS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_precision_option_reaches_it(dtype: torch.dtype) -> None:
    x, weight = torch.randn(1, 48, 28, 28).to(dtype), torch.randn(48, 48, 3, 3).to(dtype)
    told = str(tilewright.explain(tilewright.conv2d, x, weight, padding=1))
    assert "options(precision='tf32') admits it" in told
    with tilewright.options(backend="cpu", config=config_of("portable")):
        refused = tilewright.conv2d(x, weight, padding=1)
        with tilewright.options(precision="tf32"):
            told = str(tilewright.explain(tilewright.conv2d, x, weight, padding=1))
            taken = tilewright.conv2d(x, weight, padding=1)
    assert "runs cpu: winograd_fused" in told
    assert not torch.equal(refused, taken) or dtype != torch.float32


def test_what_it_cannot_run_is_rejected_with_a_reason() -> None:
    config = config_of("portable")
    for parameters in ({"stride": (2, 1)}, {"dilation": (1, 2)}):
        case = layer((1, 3, 9, 9), 4, **PADDED, **parameters)
        assert "3x3" in str(BACKEND.rejects(config, case.problem(), spec("portable")))
    case = layer((1, 3, 9, 9), 4, (5, 3), **PADDED)
    assert "3x3" in str(BACKEND.rejects(config, case.problem(), spec("portable")))
    case = layer((1, 3, 9, 9), 4, **PADDED)
    tall = dataclasses.replace(config, block_h=2)
    assert "block_h" in str(BACKEND.rejects(tall, case.problem(), spec("portable")))
    compute = dataclasses.replace(config, compute="bf16")
    assert BACKEND.rejects(compute, case.problem(), spec("portable")) is not None


@pytest.mark.parametrize("isa", LEVELS)
def test_every_listed_config_is_right(isa: str) -> None:
    for image, outputs in (((2, 16, 14, 14), 48), ((1, 40, 30, 9), 70)):
        case = layer(image, outputs, activation="relu", **PADDED)
        listed = [each for each in BACKEND.configs(case.problem(), spec(isa)) if each.algorithm in ALGORITHMS]
        assert listed
        for config in listed[:12]:
            check(case, config)


@pytest.mark.parametrize("isa", LEVELS)
def test_python_knows_how_much_scratch_memory_a_launch_takes(isa: str) -> None:
    pick = random.Random(1)
    for _ in range(60):
        case = winograd_case(pick, torch.float32)
        config = any_config(pick, isa, pack=pick.choice(("shared", "frozen")))
        for threads in (1, 3):
            problem = case.problem(frozen_weight=config.pack == "frozen", threads=threads)
            plan = BACKEND.plan(config, problem, geometry.forward(problem))
            predicted = workspace_bytes(config, problem)
            assert plan.workspace_bytes <= predicted
            assert plan.workspace_bytes >= 0.9 * predicted or threads > 1


def test_the_matrices_compute_a_convolution_exactly() -> None:
    """The transforms' definition, in float64: F(m, 3) of one row."""
    for outputs in (1, 2, 3, 4):
        a, g, b = winograd.matrices(outputs)
        x, w = torch.randn(outputs + 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
        y = a @ ((g @ w) * (b @ x))
        torch.testing.assert_close(y, torch.stack([x[i : i + 3] @ w for i in range(outputs)]))


def test_magnitudes_are_no_smaller_than_the_products() -> None:
    for groups, padding in ((1, (1, 1, 1, 1)), (2, (0, 3, 2, 1))):
        case = layer((2, 6, 7, 9), 4, groups=groups, padding=padding)
        problem = case.problem()
        found = winograd.magnitudes(problem, case.x, case.weight)
        products = torch.nn.functional.conv2d(
            torch.nn.functional.pad(case.x.double().abs(), (*padding[2:], *padding[:2])),
            case.weight.double().abs(),
            groups=groups,
        )
        assert found.shape == products.shape
        assert (found >= products).all()
