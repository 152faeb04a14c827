"""``tilewright tune``: measures which kernel is fastest here, and remembers it."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterable
from pathlib import Path

import typer
from rich.markup import escape

from tilewright import dispatch, tuner
from tilewright.benchmark.conv2d.shapes import LAYOUTS as FORMATS
from tilewright.benchmark.matmul.shapes import LAYOUTS
from tilewright.benchmark.settings import DIRECTIONS, Settings
from tilewright.benchmark.shapes import Shape
from tilewright.cli import arguments
from tilewright.cli.problems import problems_of
from tilewright.errors import ArgumentError
from tilewright.tuner.store import user_store


def tune_matmul(
    shapes: arguments.MatmulListsOption = "resnet",
    m: arguments.SizeOption = None,
    n: arguments.SizeOption = None,
    k: arguments.SizeOption = None,
    dtype: arguments.DtypeOption = "f32",
    activation: arguments.ActivationOption = "none",
    bias: arguments.BiasOption = True,
    layout: arguments.LayoutOption = "linear",
    device: arguments.DeviceOption = "cpu",
    precision: arguments.PrecisionOption = "ieee",
    threads: arguments.ThreadsOption = None,
    packed: arguments.PackedOption = False,
    budget_s: arguments.TuneBudgetOption = 4.0,
    json: arguments.JsonOption = None,
) -> None:
    """Tune problems and keep the winners in the user's store (TILEWRIGHT_CACHE_DIR).

    Only candidates whose results agree with float64 are timed. Ctrl-C keeps what is finished.
    """
    settings = Settings(
        operation="matmul",
        dtype=arguments.dtype(dtype),
        device=arguments.device(device),
        layout=arguments.one_of("--layout", layout, *LAYOUTS),
        bias=bias,
        activation=arguments.activation(activation),
        threads=threads,
        precision=arguments.precision(precision),
    )
    _tune(arguments.matmul_shapes(shapes, m, n, k), settings, packed, budget_s, json)


def tune_conv2d(
    shapes: arguments.Conv2dListsOption = "resnet50",
    shape: arguments.ImageOption = "",
    out_channels: arguments.OutChannelsOption = None,
    kernel: arguments.KernelOption = "3x3",
    stride: arguments.StrideOption = "1",
    padding: arguments.PaddingOption = "0",
    dilation: arguments.DilationOption = "1",
    groups: arguments.GroupsOption = 1,
    dtype: arguments.DtypeOption = "f32",
    activation: arguments.ActivationOption = "none",
    bias: arguments.BiasOption = True,
    residual: arguments.ResidualOption = False,
    layout: arguments.FormatOption = "channels_last",
    direction: arguments.PassOption = "forward",
    device: arguments.DeviceOption = "cpu",
    precision: arguments.PrecisionOption = "ieee",
    threads: arguments.ThreadsOption = None,
    packed: arguments.PackedOption = False,
    budget_s: arguments.TuneBudgetOption = 4.0,
    json: arguments.JsonOption = None,
) -> None:
    """Tune convolutions and keep the winners in the user's store (TILEWRIGHT_CACHE_DIR).

    Only candidates whose results agree with float64 are timed. Ctrl-C keeps what is finished.
    """
    given = (shape, out_channels, kernel, stride, padding, dilation, groups)
    settings = Settings(
        operation="conv2d",
        dtype=arguments.dtype(dtype),
        device=arguments.device(device),
        layout=arguments.one_of("--layout", layout, *FORMATS),
        bias=bias,
        residual=residual,
        activation=arguments.activation(activation),
        direction=arguments.one_of("--pass", direction, *DIRECTIONS),
        threads=threads,
        precision=arguments.precision(precision),
    )
    _tune(arguments.conv2d_shapes(shapes, *given), settings, packed, budget_s, json)


def _tune(
    listed: Iterable[Shape], settings: Settings, packed: bool, budget_s: float, json: Path | None
) -> None:
    arguments.output_file(json)
    if packed and settings.device != "cpu":
        raise ArgumentError(
            f"--packed with --device {settings.device}: weights are packed on CPUs only; leave it out"
        )
    with arguments.threads(settings.threads):
        report = tuner.tune_problems(problems_of(listed, settings, frozen=packed), budget_s=budget_s)
    dispatch.forget()
    console = arguments.result_console()
    console.print(escape(str(report)), soft_wrap=True, highlight=False)
    console.print(f"kept in {user_store().path}", soft_wrap=True, highlight=False)
    if json is not None:
        json.write_text(jsonlib.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    if report.interrupted:
        raise typer.Exit(130)
