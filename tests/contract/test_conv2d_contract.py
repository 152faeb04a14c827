"""The one contract test of conv2d and its gradients: every backend x every case, from the registry.

A backend that appears in ``kernels/conv2d`` is tested here the day its file appears. A backend need not compute
every problem, but torch's and the reference do; what ours must compute is said in
`test_our_kernels_compute_what_they_are_for`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.conv2d_cases import DIRECTIONS, DTYPES, Case, cases, problem_of, tensors
from tests.contract.subjects import Subject, subjects
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.reference import conv2d_float64
from tilewright.kernels.epilogue import activate

_SUBJECTS = subjects("conv2d")
_ALL_ROUND = ("aten", "reference")


def _turn(what: Any) -> int:
    """Some number that is always the same of the same."""
    return zlib.crc32(str(what).encode())


def tried(subject: Subject, chosen: Sequence[Case]) -> list[Case]:
    """The cases that a test run can afford: all, but for a subject that takes seconds for each a few of each kind."""
    if subject.rounds_fp32:
        # The CUDA kernels compute no gradients.
        chosen = [case for case in chosen if case.direction == "forward"]
    if subject.emulated:
        return [case for case in chosen if not case.large]
    if subject.slow:
        # Several algorithms are interpreted in tests/triton/interpreter; here is what nobody thought of there.
        return [case for case in chosen if not case.large and _turn(case) % 16 == 0]
    return [case for case in chosen if _turn(case) % 4 == 0] if subject.compiles else list(chosen)


def trials(chosen: Sequence[Case]) -> list[Any]:
    """(subject, case) as pytest takes them."""
    return [
        pytest.param(subject, case, id=f"{subject}-{case}")
        for subject in _SUBJECTS
        for case in tried(subject, chosen)
    ]


def runnable(subject: Subject, problem: Conv2dProblem) -> list[Any]:
    configs = [
        config
        for config in dict.fromkeys(subject.backend.configs(problem, subject.spec))
        if subject.backend.rejects(config, problem, subject.spec) is None
    ]
    if (subject.slow or subject.compiles) and configs:
        # The best guess in half of the cases, each of the others in its turn.
        turn = _turn(problem.describe())
        return configs[:1] if turn % 2 else [configs[turn // 2 % len(configs)]]
    return configs


def outputs_of(returned: Any) -> tuple[Tensor, ...]:
    return returned if isinstance(returned, tuple) else (returned,)


@pytest.mark.parametrize(("subject", "case"), trials(list(cases())))
def test_every_config_is_right(subject: Subject, case: Case) -> None:
    inputs = tensors(case, subject.device)
    problem = subject.posed(problem_of(case, inputs), inputs)
    configs = runnable(subject, problem)
    assert configs or subject.name not in _ALL_ROUND, f"{subject} has no config for {problem.describe()}"
    if not configs:
        return
    judge = oracle(problem, inputs)
    before = [None if tensor is None else tensor.clone() for tensor in inputs]
    for config in configs:
        outputs = outputs_of(subject.backend.bind(config, problem)(*inputs))
        verdict = judge(outputs)
        assert verdict is None, f"{subject.name} {config}: {verdict}"
        storages = [
            tensor.untyped_storage().data_ptr() for tensor in (*inputs, *outputs) if tensor is not None
        ]
        if all(tensor.numel() for tensor in outputs):
            assert len(set(storages[-len(outputs) :])) == len(outputs), f"{config}: outputs share memory"
            assert not set(storages[-len(outputs) :]) & set(storages[: -len(outputs)]), f"{config}: aliases"
    for tensor, copy in zip(inputs, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy), "an input was written to"  # type: ignore[arg-type]


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_our_kernels_compute_what_they_are_for(subject: Subject, dtype: torch.dtype, layout: str) -> None:
    """That a backend computes nothing at all any more must not pass for correctness."""
    for kernel in ((1, 1), (3, 3), (7, 7)):
        case = Case(
            "served", x=(2, 16, 14, 14), channels=32, kernel=kernel, dtype=dtype, layouts=(layout, layout)
        )
        case = replace(case, padding=(kernel[0] // 2,) * 4)
        if subject.interpreted and dtype == torch.bfloat16:
            return  # Triton's interpreter multiplies bf16 wrongly
        inputs = tensors(case, subject.device)
        assert runnable(subject, subject.posed(problem_of(case, inputs), inputs)), str(kernel)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_nan_and_inf_pass_as_in_the_definition(subject: Subject, direction: Any, layout: str) -> None:
    """Specials of an image reach the results whose windows see them, and nothing beside them.

    A special of dy or of the weight that meets the padding is left out, or multiplied by zero, as in cuDNN: torch's
    own backends differ. So specials of dy lie inside, where the weight's gradient sees no padding.
    """
    case = Case(
        "special",
        x=(2, 17, 7, 8),
        channels=18,
        padding=(1, 1, 1, 1),
        direction=direction,
        layouts=(layout, layout),
    )
    inputs = tensors(case, subject.device)
    images = inputs[:1] if direction != "weight_gradient" else inputs[:2]
    for index, image in enumerate(images):
        assert image is not None
        inside = direction == "weight_gradient" and index == 0
        first, last = ((1, 1), (5, 6)) if inside else ((0, 0), (6, 7))
        image[0, 3, *first], image[0, 4, 3, 3] = torch.inf, torch.nan
        image[1, 5, *last], image[1, 0, 2, 5], image[1, 1, 2, 5] = -torch.inf, torch.inf, 0.0
    problem = subject.posed(problem_of(case, inputs), inputs)
    expected = conv2d_float64(problem, *inputs)[0]  # type: ignore[arg-type]
    for config in runnable(subject, problem):
        _assert_same(subject, subject.backend.bind(config, problem)(*inputs), expected, config)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "silu"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("with_addends", [False, True])
def test_nan_and_inf_pass_epilogues_as_in_torch(
    subject: Subject, activation: str, layout: str, with_addends: bool
) -> None:
    case = Case("special", x=(1, 4, 6, 6), channels=20, activation=activation, layouts=(layout, layout))
    if with_addends:
        case = replace(case, bias=torch.float32, residual=torch.float32, residual_layout=layout)
    x, weight, bias, residual = tensors(case, subject.device)
    assert x is not None
    assert weight is not None
    x[0, 1, 2, 2], x[0, 0, 5, 5] = torch.inf, torch.nan
    weight[3, 1, 0, 0], weight[4, 2, 1, 1], weight[5, 0, 2, 2] = 0.0, torch.inf, torch.nan
    inputs = (x, weight, bias, residual)
    problem = problem_of(case, inputs)
    exact = conv2d_float64(replace(problem, activation="none"), *inputs)[1]  # type: ignore[arg-type]
    if subject.name == "aten" and activation == "gelu":
        pytest.skip("torch's own fp32 gelu of infinity is NaN or infinity, by where it lies in memory")
    expected = activate(exact, activation)
    for config in runnable(subject, problem):
        _assert_same(subject, subject.backend.bind(config, problem)(*inputs), expected, config)


def _assert_same(subject: Subject, out: Tensor, expected: Tensor, config: Any) -> None:
    assert torch.equal(out.isnan(), expected.isnan()), f"{config}: NaN in other places"
    infinite, finite = expected.isinf(), expected.isfinite()
    assert torch.equal(out.double()[infinite], expected[infinite]), f"{config}: infinities differ"
    near = 2e-2 if subject.rounds_fp32 else 1e-4
    torch.testing.assert_close(out.double()[finite], expected[finite], rtol=near, atol=near)


# On the CPU, where untouched pages cost nothing; a GPU would need the memory itself.
@pytest.mark.parametrize("subject", [s for s in _SUBJECTS if s.device == "cpu"], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_offsets_beyond_2_to_the_31(subject: Subject, direction: Any, dim: int) -> None:
    """Images (channels, rows) so far apart that 32-bit offsets wrap: 64-bit addresses, few bytes of real memory."""
    case = Case("far", x=(2, 2, 4, 5), channels=3, dtype=torch.float16, direction=direction)
    first, second, *addends = tensors(case, subject.device)
    assert first is not None
    far = (1 << 31) // (first.shape[dim] - 1) + 7
    strides = [step if at != dim else far for at, step in enumerate(first.stride())]
    storage = torch.empty(far * first.shape[dim], dtype=torch.float16)
    inputs = (storage.as_strided(first.shape, strides).copy_(first), second, *addends)
    problem = subject.posed(problem_of(case, inputs), inputs)
    judge = oracle(problem, inputs)
    for config in runnable(subject, problem):
        assert judge(outputs_of(subject.backend.bind(config, problem)(*inputs))) is None, str(config)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_same_bits_every_time(subject: Subject, direction: Any) -> None:
    case = Case("bits", x=(3, 37, 12, 11), channels=41, padding=(1, 1, 1, 1), direction=direction)
    if subject.slow:
        case = replace(case, x=(2, 19, 5, 4), channels=21)
    inputs = tensors(case, subject.device)
    problem = subject.posed(problem_of(case, inputs), inputs)
    for config in runnable(subject, problem):
        launch = subject.backend.bind(config, problem)
        first = launch(*inputs)
        assert all(torch.equal(first, launch(*inputs)) for _ in range(1 if subject.slow else 3)), str(config)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_integers_are_exact_or_refused(subject: Subject, dtype: torch.dtype) -> None:
    if subject.device != "cpu":
        pytest.skip("torch has no integer convolution on CUDA")
    x, weight = torch.randint(-9, 9, (2, 4, 6, 6)).to(dtype), torch.randint(-9, 9, (6, 2, 3, 3)).to(dtype)
    case = Case("integers", x=(2, 4, 6, 6), groups=2, padding=(1, 1, 0, 1), dtype=dtype, activation="relu")
    inputs = (x, weight, torch.arange(6).to(dtype), None)
    problem = subject.posed(problem_of(case, inputs), inputs)
    configs = runnable(subject, problem)
    assert configs or subject.name != "aten"
    for config in configs:
        assert oracle(problem, inputs)((subject.backend.bind(config, problem)(*inputs),)) is None


def test_the_oracle_finds_what_is_wrong() -> None:
    case = Case("judged", x=(2, 9, 6, 7), channels=19, padding=(1, 1, 1, 1))
    inputs = tensors(case, "cpu")
    problem = problem_of(case, inputs)
    judge = oracle(problem, inputs)
    y = torch.nn.functional.conv2d(inputs[0], inputs[1], padding=1)  # type: ignore[arg-type]
    assert judge((y,)) is None
    assert "expected torch.float32 with strides" in (judge((y.to(memory_format=torch.channels_last),)) or "")
    assert "shape" in (judge((y[1:],)) or "")
    assert "float64" in (judge((y.double(),)) or "")
    assert "2 tensors" in (judge((y, y)) or "")
    # One tap of one pixel is lost; and a pixel of the padding is read from the row before.
    lost = y.clone()
    lost[1, 2, 3, 3] -= inputs[0][1, 4, 3, 3] * inputs[1][2, 4, 1, 1]  # type: ignore[index]
    assert "y is wrong in 1 of 1596 elements, worst at (1, 2, 3, 3)" in (judge((lost,)) or "")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_reference_is_the_definition(direction: Any) -> None:
    """Against loops over every index, and against torch's own gradients in float64."""
    case = Case(
        "loops",
        x=(2, 4, 5, 6),
        channels=4,
        kernel=(3, 2),
        stride=(2, 1),
        padding=(1, 0, 2, 1),
        dilation=(1, 2),
        groups=2,
        direction=direction,
        dtype=torch.float64,
    )
    first, second = tensors(case, "cpu")[:2]
    assert first is not None
    assert second is not None
    problem = problem_of(case, (first, second))
    expected = torch.zeros(problem.out_shape, dtype=torch.float64)
    (batch, channels, height, width), (_, out_channels, out_height, out_width) = case.x, case.y
    each = channels // case.groups
    for n in range(batch):
        for k in range(out_channels):
            group = k // (out_channels // case.groups)
            for oh in range(out_height):
                for ow in range(out_width):
                    for c in range(each):
                        for r in range(case.kernel[0]):
                            for s in range(case.kernel[1]):
                                ih = oh * case.stride[0] - case.padding[0] + r * case.dilation[0]
                                iw = ow * case.stride[1] - case.padding[2] + s * case.dilation[1]
                                if not (0 <= ih < height and 0 <= iw < width):
                                    continue
                                x_at, w_at, y_at = (n, group * each + c, ih, iw), (k, c, r, s), (n, k, oh, ow)
                                if direction == "forward":
                                    expected[y_at] += first[x_at] * second[w_at]
                                elif direction == "input_gradient":
                                    expected[x_at] += first[y_at] * second[w_at]
                                else:
                                    expected[w_at] += first[y_at] * second[x_at]
    torch.testing.assert_close(conv2d_float64(problem, first, second)[0], expected)
