"""The Triton kernels of conv2d, interpreted: indexing, masks, epilogues, split sums, launches, gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.conv2d.triton import BACKEND
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.kernels.frozen import FrozenOperand
from tilewright.kernels.interface import DeviceSpec

CPU = DeviceSpec("cpu", "any", "portable", 2, 1e9, 1e9, 1e9, 1e9, 1e9, 1 << 15, 1 << 20, 1 << 24)
GEMM = TritonConfig("implicit_gemm", 32, 16, 16, 2, 1, 4, 3)
CONFIGS = {
    "implicit_gemm": GEMM,
    "few_channels": replace(GEMM, algorithm="few_channels"),
    "descriptor": TritonConfig("descriptor", 32, 32, 16, 2, 1, 4, 3),
    "depthwise": TritonConfig("depthwise", 32, 16, 1, 2, 1, 2, 1),
    "input_gradient": replace(GEMM, algorithm="input_gradient"),
    "weight_gradient": replace(GEMM, algorithm="weight_gradient"),
}
FORWARD = ("implicit_gemm", "few_channels", "descriptor", "depthwise")
WINDOWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"padding": (1, 2, 0, 3)},
    "strided": {"stride": (2, 2), "padding": (1, 1, 1, 1)},
    "dilated": {"stride": (2, 3), "padding": (1, 2, 0, 3), "dilation": (2, 1)},
    "classes without taps": {"stride": (4, 2), "dilation": (2, 2)},
}
DTYPES = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def image(*shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.randn(shape).to(dtype).contiguous(memory_format=order)


def check(config: TritonConfig, problem: Conv2dProblem, *operands: Tensor | None) -> Any:
    """Runs the kernel and compares each element with float64, within the error that its sum may have."""
    assert BACKEND.rejects(config, problem, CPU) is None, problem.describe()
    result = BACKEND.bind(config, problem)(*operands)
    judged = oracle(problem, operands)(result if isinstance(result, tuple) else (result,))
    assert judged is None, f"{config} {problem.describe()}: {judged}"
    return result


def forward(
    config: TritonConfig,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    **options: Any,
) -> Any:
    problem = Conv2dProblem.from_tensors(x, weight, bias, residual, **options)
    return check(config, problem, x, weight, bias, residual)


def gradients(config: TritonConfig, x: Tensor, weight: Tensor, channels_last: bool, **window: Any) -> None:
    """Those of the two gradients that the config computes."""
    plain = Conv2dProblem.from_tensors(x, weight, **window)
    dy = image(*plain.y_shape, dtype=x.dtype, channels_last=channels_last)
    window["channels_last"] = channels_last
    of_input = Conv2dProblem.from_tensors(x.shape, weight, grad=dy, **window)
    of_weight = Conv2dProblem.from_tensors(x, weight.shape, grad=dy, **window)
    if config.algorithm in ("input_gradient", "descriptor", "depthwise"):
        check(config, of_input, dy, weight)
    if config.algorithm in ("weight_gradient", "few_channels", "depthwise"):
        check(config, of_weight, dy, x)


def operands(
    algorithm: str, dtype: torch.dtype, channels_last: bool, groups: int
) -> tuple[Tensor, Tensor, int]:
    """x, weight and groups that the algorithm takes; sizes that no block divides, where it takes such."""
    channels, outputs = {
        "few_channels": (3 * groups, 18 * groups),
        "descriptor": (32 * groups, 24 if groups == 1 else 64),
        "depthwise": (12, 24),
    }.get(algorithm, (20 * groups, 18 * groups))
    if algorithm == "depthwise":
        groups = 6 * groups
    size = (8, 6) if algorithm == "descriptor" else (7, 6)
    x = image(2, channels, *size, dtype=dtype, channels_last=channels_last)
    return x, image(outputs, channels // groups, 3, 2, dtype=dtype, channels_last=channels_last), groups


def test_backend_is_here() -> None:
    assert BACKEND.absent("cpu") is None
    absence = BACKEND.absent("cuda")
    assert absence is not None
    assert "TRITON_INTERPRET" in absence.reason


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_windows(algorithm: str, window: str, channels_last: bool) -> None:
    """Every algorithm, in every direction that it computes. fp16 and fp32, and one group and two, take turns."""
    index = list(WINDOWS).index(window)
    dtype = (torch.float16, torch.float32)[index % 2]
    groups = 1 + (index + channels_last) % 2
    x, weight, groups = operands(algorithm, dtype, channels_last, groups)
    arguments = {**WINDOWS[window], "groups": groups}
    config = CONFIGS[algorithm]
    if algorithm == "descriptor":
        if not channels_last:
            config = replace(config, layout="nhwc")
        stride = arguments.get("stride", (1, 1))
        if stride == (1, 1):
            gradients(config, x, weight, channels_last, **arguments)
    else:
        gradients(config, x, weight, channels_last, **arguments)
    if algorithm in FORWARD:
        forward(config, x, weight, image(weight.shape[0]), activation="relu", **arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_dtypes(algorithm: str, dtype: torch.dtype) -> None:
    x, weight, groups = operands(algorithm, dtype, True, 1)
    window = {"padding": (1, 1, 1, 1), "groups": groups}
    gradients(CONFIGS[algorithm], x, weight, True, **window)
    if algorithm in FORWARD:
        forward(CONFIGS[algorithm], x, weight, **window)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("algorithm", FORWARD)
def test_epilogue(algorithm: str, activation: str) -> None:
    """Bias and residual of other dtypes, the pre-activation, and a sum in parts where the algorithm has such."""
    channels_last = activation in ("relu", "gelu", "silu")
    x, weight, groups = operands(algorithm, torch.float16, channels_last, 1)
    config = CONFIGS[algorithm]
    if algorithm == "descriptor" and not channels_last:
        config = replace(config, layout="nhwc")
    if algorithm != "depthwise" and activation in ("gelu", "gelu_tanh"):
        config = replace(config, split_k=2)
    plain = Conv2dProblem.from_tensors(x, weight, groups=groups)
    bias = torch.randn(2 * weight.shape[0])[::2]
    residual = image(*plain.y_shape, channels_last=activation == "silu")
    result = forward(
        *(config, x, weight, bias, residual), activation=activation, keep_preact=True, groups=groups
    )
    assert result[0].data_ptr() != result[1].data_ptr()


def test_residual_broadcasts() -> None:
    x, weight = image(2, 16, 5, 6), image(12, 16, 3, 3)
    for shape in ((12, 3, 4), (12, 1, 1), (2, 1, 3, 4), (4,), (1,), (2, 12, 1, 4)):
        for config in (GEMM, replace(GEMM, split_k=3)):
            forward(config, x, weight, None, torch.randn(shape))


@pytest.mark.parametrize(
    "algorithm", ["implicit_gemm", "few_channels", "input_gradient", "weight_gradient", "depthwise"]
)
def test_splits(algorithm: str) -> None:
    """Parts of unequal length, and the same bits each time."""
    for channels_last in (False, True):
        x, weight, groups = operands(algorithm, torch.float32, channels_last, 1)
        x = x[:, :, :4]
        window: dict[str, Any] = {"padding": (1, 1, 1, 1), "groups": groups}
        plain = Conv2dProblem.from_tensors(x, weight, **window)
        dy = image(*plain.y_shape, channels_last=channels_last)
        problems: list[tuple[Conv2dProblem, tuple[Tensor, Tensor]]] = [
            (plain, (x, weight)),
            (Conv2dProblem.from_tensors(x.shape, weight, grad=dy, **window), (dy, weight)),
            (Conv2dProblem.from_tensors(x, weight.shape, grad=dy, **window), (dy, x)),
        ]
        config, ran = replace(CONFIGS[algorithm], split_k=2 if algorithm == "depthwise" else 3), 0
        for problem, given in problems:
            if BACKEND.rejects(config, problem, CPU) is None:
                first = check(config, problem, *given)
                assert torch.equal(first, BACKEND.bind(config, problem)(*given))
                ran += 1
        assert ran >= 1


@pytest.mark.parametrize("config", [
    TritonConfig("implicit_gemm", 64, 64, 32, 1, 1, 4, 2),
    TritonConfig("implicit_gemm", 16, 128, 64, 16, 2, 8, 5),
    TritonConfig("implicit_gemm", 128, 128, 32, 8, 1, 16, 4),
    TritonConfig("implicit_gemm", 256, 16, 16, 4, 3, 2, 4),
    TritonConfig("implicit_gemm", 16, 16, 16, 4, 1, 1, 4),
    TritonConfig("few_channels", 64, 64, 32, 8, 1, 4, 2),
    TritonConfig("descriptor", 128, 64, 16, 8, 1, 4, 3),
], ids=str)  # fmt: skip
def test_blocks(config: TritonConfig) -> None:
    """Tiles from one warp to sixteen, with the epilogue in one piece and in four."""
    x, weight = image(2, 16, 6, 5, channels_last=True), image(40, 16, 3, 3, channels_last=True)
    residual = image(2, 40, 6, 5, channels_last=True)
    forward(
        *(config, x, weight, torch.randn(40), residual),
        padding=(1, 1, 1, 1),
        activation="gelu",
        keep_preact=True,
    )


@pytest.mark.parametrize("direction", ["forward", "input_gradient", "weight_gradient"])
@pytest.mark.parametrize("groups", [1, 8])
def test_every_listed_config(direction: str, groups: int) -> None:
    """What `configs` offers for a CPU is what a caller may get."""
    x, weight = image(1, 8, 5, 6).half(), image(16, 8 // groups, 3, 3).half()
    y_shape = (1, 16, 5, 6)
    window: dict[str, Any] = {"padding": (1, 1, 1, 1), "groups": groups}
    if direction == "forward":
        problem, given = Conv2dProblem.from_tensors(x, weight, **window), (x, weight)
    else:
        dy = image(*y_shape).half()
        window["grad"] = dy
        if direction == "input_gradient":
            problem, given = Conv2dProblem.from_tensors(x.shape, weight, **window), (dy, weight)
        else:
            problem, given = Conv2dProblem.from_tensors(x, weight.shape, **window), (dy, x)
    configs = list(BACKEND.configs(problem, CPU))
    assert configs
    for config in configs[::4]:
        check(config, problem, *given)


def test_strided_operands() -> None:
    """Views of which neither pixels nor channels are contiguous, or only every row begins somewhere else."""
    x = image(1, 40, 9, 10)[:, ::2, 1:7, 2:9]
    weight = image(36, 20, 3, 6)[::2, :, :, ::2]
    for config in (GEMM, replace(GEMM, split_k=2)):
        forward(config, x, weight, padding=(1, 1, 1, 1))
    for name in ("input_gradient", "weight_gradient"):
        gradients(CONFIGS[name], x, weight, False, padding=(1, 1, 1, 1))
    crop = image(1, 32, 7, 7, channels_last=True)[:, :, 1:, :6]
    kernel = image(24, 32, 3, 3, channels_last=True)
    forward(CONFIGS["descriptor"], crop, kernel, padding=(1, 1, 1, 1))
    forward(CONFIGS["descriptor"], crop[:, :, :1, :1], kernel, padding=(1, 1, 1, 1))
    forward(GEMM, crop, kernel, stride=(2, 2))


def test_one_pixel_and_windows_of_one() -> None:
    for channels_last in (False, True):
        x = image(2, 20, 5, 6, channels_last=channels_last)
        for stride in ((1, 1), (2, 3)):
            weight = image(18, 20, 1, 1, channels_last=channels_last)
            forward(GEMM, x, weight, stride=stride)
            for name in ("input_gradient", "weight_gradient"):
                gradients(CONFIGS[name], x, weight, channels_last, stride=stride)
        # A window as large as the image, and one that sees mostly padding.
        forward(GEMM, x, image(5, 20, 5, 6, channels_last=channels_last))
        forward(GEMM, x, image(5, 20, 4, 4, channels_last=channels_last), padding=(6, 5, 4, 7), stride=(3, 3))


def test_empty() -> None:
    for shape, weights in (((0, 16, 5, 5), (4, 16, 3, 3)), ((2, 16, 5, 5), (0, 16, 3, 3))):
        x, weight = torch.randn(shape), torch.randn(weights)
        y, preact = forward(GEMM, x, weight, activation="silu", keep_preact=True)
        assert y.shape == preact.shape
    # No channels: nothing is added up, the epilogue is all there is.
    bias = torch.randn(4)
    y = forward(GEMM, torch.randn(2, 0, 5, 5), torch.randn(4, 0, 3, 3), bias, activation="silu")
    assert torch.equal(y, torch.nn.functional.silu(bias).view(1, 4, 1, 1).expand(2, 4, 3, 3))
    x, dy = torch.randn(0, 16, 5, 5), torch.randn(0, 4, 3, 3)
    problem = Conv2dProblem.from_tensors(x, torch.Size((4, 16, 3, 3)), grad=dy)
    assert torch.equal(BACKEND.bind(CONFIGS["weight_gradient"], problem)(dy, x), torch.zeros(4, 16, 3, 3))


def test_not_a_number_and_infinity() -> None:
    """A value spreads to the outputs whose window sees it, and to no others."""
    for algorithm in FORWARD:
        x, weight, groups = operands(algorithm, torch.float32, True, 1)
        x[0, 1, 4, 5], x[1, 2, 0, 0] = float("nan"), float("inf")
        problem = Conv2dProblem.from_tensors(x, weight, padding=(1, 1, 1, 1), groups=groups)
        y = BACKEND.bind(CONFIGS[algorithm], problem)(x, weight, None, None)
        want = torch.nn.functional.conv2d(x, weight, padding=1, groups=groups)
        torch.testing.assert_close(y, want, equal_nan=True, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("algorithm", ["implicit_gemm", "few_channels", "depthwise"])
def test_poison_outside_the_image_is_not_read(algorithm: str) -> None:
    x, weight, groups = operands(algorithm, torch.float32, False, 1)
    around = torch.full((2, x.shape[1] + 2, x.shape[2] + 4, x.shape[3] + 4), float("nan"))
    around[:, 1:-1, 2:-2, 2:-2] = x
    forward(*(CONFIGS[algorithm], around[:, 1:-1, 2:-2, 2:-2], weight), padding=(2, 2, 2, 2), groups=groups)


def test_copies_to_channels_last() -> None:
    """layout 'nhwc': operands are copied; a frozen weight once, and it is kept."""
    config = replace(GEMM, layout="nhwc")
    x, weight = image(2, 16, 6, 6), image(12, 16, 3, 3)
    forward(config, x, weight, padding=(1, 1, 1, 1))
    gradients(replace(config, algorithm="input_gradient"), x, weight, False)
    gradients(replace(config, algorithm="weight_gradient"), x, weight, False)
    problem = Conv2dProblem.from_tensors(x, weight, frozen_weight=True)
    frozen = FrozenOperand(weight)
    launch = BACKEND.bind(config, problem)
    first, second = launch(x, frozen, None, None), launch(x, frozen, None, None)
    assert torch.equal(first, second)
    assert torch.equal(first, forward(config, x, weight))
    (kept,) = frozen.forms.values()
    assert kept.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(BACKEND.bind(GEMM, problem)(x, frozen, None, None), forward(GEMM, x, weight))


def test_outputs_are_fresh_and_laid_out_as_promised() -> None:
    for channels_last in (False, True):
        x, weight = image(2, 16, 5, 5, channels_last=channels_last), image(8, 16, 3, 3)
        launch = BACKEND.bind(GEMM, problem := Conv2dProblem.from_tensors(x, weight))
        first, second = launch(x, weight), launch(x, weight)
        assert first.stride() == problem.y_strides
        assert len({tensor.data_ptr() for tensor in (x, weight, first, second)}) == 4


@pytest.mark.parametrize("where", ["rows", "channels", "images", "weights", "residual"])
def test_offsets_beyond_32_bits(where: str) -> None:
    """Strides of more than 2^31 elements over memory that is reserved, but never touched between the rows."""
    stride = 2**31 + 8
    storage = torch.empty(3 * stride, dtype=torch.float16)

    def far(shape: tuple[int, ...], dim: int) -> Tensor:
        dense = torch.empty(shape).stride()
        strides = [stride if i == dim else step for i, step in enumerate(dense)]
        return storage.as_strided(shape, strides).copy_(torch.randn(shape))

    x, weight, residual = image(1, 3, 3, 4).half(), image(2, 3, 2, 2).half(), None
    if where == "weights":
        weight = far((2, 3, 2, 2), 0)
    elif where == "residual":
        residual = far((1, 2, 2, 3), 1)
    else:
        shape, dim = {"rows": ((1, 2, 3, 4), 2), "channels": ((1, 3, 3, 4), 1), "images": ((3, 2, 3, 4), 0)}[
            where
        ]
        x = far(shape, dim)
        weight = image(2, shape[1], 2, 2).half()
    for algorithm in ("implicit_gemm", "few_channels"):
        forward(CONFIGS[algorithm], x, weight, None, residual)
    if residual is None:
        for name in ("input_gradient", "weight_gradient"):
            gradients(CONFIGS[name], x, weight, False)
