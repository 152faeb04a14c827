"""The convolutions, and the gradients of convolutions, that every backend must get right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.conv2d.problem import Conv2dProblem, Direction, output_size

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DIRECTIONS: tuple[Direction, ...] = ("forward", "input_gradient", "weight_gradient")


@dataclass(frozen=True)
class Case:
    """A problem and how its two operands lie in memory: x and w, dy and w, or dy and x."""

    name: str
    x: tuple[int, int, int, int] = (2, 5, 9, 8)
    channels: int = 6  # of the output
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    direction: Direction = "forward"
    dtype: torch.dtype = torch.float32
    layouts: tuple[str, str] = ("nchw", "nchw")
    channels_last: bool | None = None  # of the result; None follows the rule
    bias: torch.dtype | None = None
    residual: torch.dtype | None = None
    residual_layout: str = "nchw"
    activation: str = "none"
    keep_preact: bool = False
    large: bool = False  # too slow for an interpreter

    def __str__(self) -> str:
        return f"{self.direction}-{self.name}-{str(self.dtype).removeprefix('torch.')}"

    @property
    def weight(self) -> tuple[int, int, int, int]:
        return self.channels, self.x[1] // self.groups, *self.kernel

    @property
    def y(self) -> tuple[int, int, int, int]:
        window = (self.kernel, self.stride, self.padding, self.dilation)
        return self.x[0], self.channels, *output_size(self.x[2:], *window)


Shape = tuple[int, ...]
Make = Callable[[Shape], Tensor]


def _nhwc(shape: Shape, make: Make) -> Tensor:
    n, c, h, w = shape
    return make((n, h, w, c)).permute(0, 3, 1, 2)


def _strided(shape: Shape, make: Make) -> Tensor:
    return make(tuple(2 * size for size in shape))[::2, ::2, ::2, ::2]


def _cropped(shape: Shape, make: Make) -> Tensor:
    n, c, h, w = shape
    return make((n, c, h + 1, w + 3))[:, :, 1:, 1 : w + 1]


def _cropped_nhwc(shape: Shape, make: Make) -> Tensor:
    n, c, h, w = shape
    return _nhwc((n, c, h + 1, w + 3), make)[:, :, 1:, 1 : w + 1]


def _channels_of_more(shape: Shape, make: Make) -> Tensor:
    n, c, h, w = shape
    return make((n, c + 3, h, w))[:, 2 : c + 2]


def _channels_of_more_nhwc(shape: Shape, make: Make) -> Tensor:
    n, c, h, w = shape
    return _nhwc((n, c + 3, h, w), make)[:, 2 : c + 2]


def _turned(shape: Shape, make: Make) -> Tensor:
    n, c, h, w = shape
    return make((n, c, w, h)).mT


def _swapped(shape: Shape, make: Make) -> Tensor:
    n, c, h, w = shape
    return make((c, n, h, w)).transpose(0, 1)


def _expanded(*dims: int) -> Callable[[Shape, Make], Tensor]:
    def expanded(shape: Shape, make: Make) -> Tensor:
        return make(tuple(1 if dim in dims else size for dim, size in enumerate(shape))).expand(shape)

    return expanded


def _offset(shape: Shape, make: Make) -> Tensor:
    # data that starts one element after an aligned address
    return make((1 + math.prod(shape),))[1:].view(shape)


LAYOUTS: dict[str, Callable[[Shape, Make], Tensor]] = {
    "nchw": lambda shape, make: make(shape),
    "nhwc": _nhwc,
    "strided": _strided,
    "cropped": _cropped,
    "cropped_nhwc": _cropped_nhwc,
    "channels_of_more": _channels_of_more,
    "channels_of_more_nhwc": _channels_of_more_nhwc,
    "turned": _turned,
    "swapped": _swapped,
    "expanded_batch": _expanded(0),
    "expanded_channels": _expanded(1),
    "expanded_pixels": _expanded(2, 3),
    "expanded_all": _expanded(0, 1, 2, 3),
    "offset": _offset,
}

_SMALL_RESIDUALS: dict[str, Callable[[Shape], Shape]] = {
    "one_per_channel": lambda y: (y[1], 1, 1),
    "one_per_image": lambda y: (y[0], 1, 1, 1),
    "one_row": lambda y: (y[3],),
    "one_column": lambda y: (y[2], 1),
    "scalar": lambda y: (),
}


def dense(shape: Shape, dtype: torch.dtype, device: str, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape) * scale).to(dtype).to(device)


def tensors(case: Case, device: str) -> tuple[Tensor | None, ...]:
    """What a launch takes: (x, weight, bias, residual), (dy, weight) or (dy, x)."""
    shapes = {
        "forward": (case.x, case.weight),
        "input_gradient": (case.y, case.weight),
        "weight_gradient": (case.y, case.x),
    }[case.direction]
    terms = (
        math.prod(case.weight[1:])
        if case.direction != "weight_gradient"
        else case.x[0] * math.prod(case.y[2:])
    )
    scales = (1.0, 1 / math.sqrt(max(terms, 1)))
    first, second = (
        LAYOUTS[layout](shape, lambda s, scale=scale: dense(s, case.dtype, device, scale))  # type: ignore[misc]
        for layout, shape, scale in zip(case.layouts, shapes, scales, strict=True)
    )
    if case.direction != "forward":
        return first, second
    bias = dense((case.channels,), case.bias, device) if case.bias else None
    residual = None
    if case.residual:
        kind = case.residual
        small = _SMALL_RESIDUALS.get(case.residual_layout)
        if small is not None:
            residual = dense(small(case.y), kind, device)
        else:
            residual = LAYOUTS[case.residual_layout](case.y, lambda s: dense(s, kind, device))
    return first, second, bias, residual


def problem_of(case: Case, inputs: tuple[Any, ...], **options: Any) -> Conv2dProblem:
    first, second, *addends = inputs
    x, weight, grad = {
        "forward": (first, second, None),
        "input_gradient": (torch.Size(case.x), second, first),
        "weight_gradient": (second, torch.Size(case.weight), first),
    }[case.direction]
    return Conv2dProblem.from_tensors(
        x,
        weight,
        *addends,
        grad=grad,
        channels_last=case.channels_last,
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
        groups=case.groups,
        activation=case.activation,
        keep_preact=case.keep_preact,
        threads=torch.get_num_threads() if first.device.type == "cpu" else 0,
        **options,
    )


# Windows, steps, paddings and groups; sizes around register and cache tiles, primes, ones and the empty batch.
GEOMETRIES = [
    Case("plain"),
    Case("same", padding=(1, 1, 1, 1)),
    Case("pointwise", kernel=(1, 1)),
    Case("pointwise_strided", kernel=(1, 1), stride=(2, 2)),
    Case("pointwise_padded", kernel=(1, 1), padding=(1, 0, 0, 2)),
    Case("strided", stride=(2, 2), padding=(1, 1, 1, 1)),
    Case("strided_apart", stride=(2, 1), padding=(1, 1, 0, 0), kernel=(2, 3)),
    Case("steps_over_pixels", stride=(3, 4), kernel=(2, 2)),
    Case("stem", x=(1, 3, 23, 21), channels=8, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    Case("patches", x=(2, 3, 12, 12), channels=10, kernel=(4, 4), stride=(4, 4)),
    Case("row_window", kernel=(1, 7), padding=(0, 0, 3, 3)),
    Case("column_window", kernel=(7, 1), padding=(3, 3, 0, 0)),
    Case("even_window", kernel=(2, 4), padding=(0, 1, 1, 2)),
    Case("uneven_padding", kernel=(3, 2), padding=(2, 0, 1, 3), stride=(2, 1)),
    Case("dilated", dilation=(2, 3), padding=(2, 2, 3, 3)),
    Case("dilated_strided", dilation=(3, 2), stride=(2, 3), padding=(1, 2, 0, 1)),
    Case("windows_of_padding", padding=(5, 4, 5, 4)),
    Case("groups", x=(2, 6, 7, 9), channels=9, groups=3, padding=(1, 1, 1, 1)),
    Case("groups_dilated", x=(2, 8, 9, 9), channels=4, groups=2, dilation=(2, 2), stride=(2, 1)),
    Case("wide_groups", x=(1, 34, 6, 6), channels=66, groups=2, padding=(1, 1, 1, 1)),
    Case("depthwise", x=(2, 19, 8, 7), channels=19, groups=19, padding=(1, 1, 1, 1)),
    Case("depthwise_strided", x=(2, 32, 9, 9), channels=32, groups=32, stride=(2, 2), padding=(1, 1, 1, 1)),
    Case("depthwise_more", x=(1, 6, 7, 7), channels=12, groups=6, kernel=(5, 5), padding=(2, 2, 2, 2)),
    Case("depthwise_dilated", x=(1, 16, 9, 9), channels=16, groups=16, dilation=(2, 2), padding=(2, 2, 2, 2)),
    Case("one_channel", x=(2, 1, 8, 8), channels=1),
    Case("one_input_channel", x=(1, 1, 9, 17), channels=33),
    Case("one_output_channel", x=(2, 17, 6, 6), channels=1, padding=(1, 1, 1, 1)),
    Case("one_pixel", x=(3, 7, 1, 1), channels=5, padding=(1, 1, 1, 1)),
    Case("one_window", x=(3, 7, 3, 3), channels=5),
    Case("smaller_than_window", x=(1, 4, 2, 3), channels=4, kernel=(5, 5), padding=(2, 2, 2, 2)),
    Case("one_row", x=(1, 8, 1, 67), channels=16, kernel=(1, 3), padding=(0, 0, 1, 1)),
    Case("one_column", x=(1, 8, 37, 1), channels=16, padding=(1, 1, 1, 1)),
    Case("no_images", x=(0, 3, 6, 6), channels=4),
    Case("blocks", x=(1, 70, 15, 14), channels=65, padding=(1, 1, 1, 1), large=True),
    Case("many_images", x=(17, 16, 5, 6), channels=32, padding=(1, 1, 1, 1), large=True),
    Case("deep", x=(1, 516, 4, 5), channels=37, padding=(1, 1, 1, 1), large=True),
    Case("tall", x=(1, 4, 131, 3), channels=16, padding=(1, 1, 1, 1), large=True),
]

_LIGHT = (
    "same",
    "strided",
    "pointwise",
    "groups",
    "depthwise",
    "uneven_padding",
    "dilated",
    "no_images",
    "deep",
)
"""What 16-bit dtypes are tried on in every direction."""


def cases() -> Iterator[Case]:
    for direction in DIRECTIONS:
        for dtype in DTYPES:
            for geometry in GEOMETRIES:
                if dtype != torch.float32 and not (direction == "forward" or geometry.name in _LIGHT):
                    continue
                yield replace(geometry, direction=direction, dtype=dtype)
                every = dtype == torch.float32 or geometry.name in _LIGHT
                if every:
                    last = replace(geometry, direction=direction, dtype=dtype, layouts=("nhwc", "nhwc"))
                    yield (
                        replace(last, name=f"{geometry.name}_nhwc", bias=dtype, activation="relu")
                        if (direction == "forward")
                        else replace(last, name=f"{geometry.name}_nhwc")
                    )
        yield from _laid_out(direction)
    for dtype in DTYPES:
        yield from _epilogues(dtype)


def _laid_out(direction: Direction) -> Iterator[Case]:
    plain = Case("", x=(2, 5, 7, 8), channels=6, padding=(1, 1, 1, 1), direction=direction)
    for layout in LAYOUTS:
        for first, second in ((layout, "nchw"), ("nhwc", layout), (layout, layout)):
            for last in (False, True):
                # Written out where the rule alone would leave one of them untried.
                chosen = last if direction != "forward" else None
                if chosen is None and last:
                    continue
                name = f"{first}_{second}" + ("_to_nhwc" if last else "")
                yield replace(plain, name=name, layouts=(first, second), channels_last=chosen)
    for dtype in (torch.bfloat16, torch.float16):
        for layout in ("nhwc", "strided", "expanded_all", "offset"):
            yield replace(plain, name=f"both_{layout}", dtype=dtype, layouts=(layout, layout))


def _epilogues(dtype: torch.dtype) -> Iterator[Case]:
    for layout in ("nchw", "nhwc"):
        base = Case(
            layout, x=(2, 9, 6, 7), channels=19, padding=(1, 1, 1, 1), dtype=dtype, layouts=(layout, layout)
        )
        for activation in ("none", "relu", "gelu", "gelu_tanh", "silu"):
            for bias, residual in ((None, None), (dtype, None), (None, dtype), (torch.float32, dtype)):
                for keep in (False, True):
                    parts = [base.name, activation]
                    parts += ["bias"] * bool(bias) + ["residual"] * bool(residual) + ["preact"] * keep
                    yield replace(
                        base,
                        name="_".join(parts),
                        activation=activation,
                        bias=bias,
                        residual=residual,
                        residual_layout=layout,
                        keep_preact=keep,
                    )
        for addend in DTYPES:
            name = f"{layout}_with_{str(addend).removeprefix('torch.')}"
            yield replace(base, name=name, bias=addend, residual=addend, activation="gelu")
        for residual_layout in (*LAYOUTS, *_SMALL_RESIDUALS):
            name = f"{layout}_residual_{residual_layout}"
            yield replace(
                base,
                name=name,
                bias=dtype,
                residual=dtype,
                residual_layout=residual_layout,
                activation="relu",
            )
