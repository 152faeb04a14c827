"""``tilewright explain``: which kernel a problem would run, here or on a GPU that is not here."""

from __future__ import annotations

import json as jsonlib
from dataclasses import replace
from typing import Annotated

import typer

from tilewright.benchmark.conv2d.shapes import LAYOUTS as FORMATS
from tilewright.benchmark.matmul.shapes import LAYOUTS
from tilewright.benchmark.settings import DIRECTIONS, Settings
from tilewright.benchmark.shapes import Shape
from tilewright.cli import arguments
from tilewright.cli.problems import on_other_device, problem_of
from tilewright.explain import explain_problem
from tilewright.tuner import device as devices


def explain_matmul(
    m: Annotated[int, typer.Option(min=0, help="Rows of the input.")],
    n: Annotated[int, typer.Option(min=0, help="Output features.")],
    k: Annotated[int, typer.Option(min=0, help="Input features.")],
    dtype: arguments.DtypeOption = "f32",
    activation: arguments.ActivationOption = "none",
    bias: arguments.BiasOption = True,
    layout: arguments.LayoutOption = "linear",
    device: arguments.AnyDeviceOption = "cpu",
    precision: arguments.PrecisionOption = "ieee",
    threads: arguments.ThreadsOption = None,
    json: arguments.PrintJsonOption = False,
) -> None:
    """Say which kernel runs a problem, where that choice comes from, and why each other one was not taken.

    Runs and measures nothing.
    """
    settings = Settings(
        operation="matmul",
        dtype=arguments.dtype(dtype),
        device=_device(device),
        layout=arguments.one_of("--layout", layout, *LAYOUTS),
        bias=bias,
        activation=arguments.activation(activation),
        threads=threads,
        precision=arguments.precision(precision),
    )
    _explain(arguments.matmul_shapes("", m, n, k, smallest=0)[0], settings, json)


def explain_conv2d(
    shape: Annotated[str, typer.Option(help="The input as NxCxHxW.")],
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
    device: arguments.AnyDeviceOption = "cpu",
    precision: arguments.PrecisionOption = "ieee",
    threads: arguments.ThreadsOption = None,
    json: arguments.PrintJsonOption = False,
) -> None:
    """Say which kernel runs a convolution, where that choice comes from, and why each other one was not taken.

    Runs and measures nothing.
    """
    given = (shape, out_channels, kernel, stride, padding, dilation, groups)
    settings = Settings(
        operation="conv2d",
        dtype=arguments.dtype(dtype),
        device=_device(device),
        layout=arguments.one_of("--layout", layout, *FORMATS),
        bias=bias,
        residual=residual,
        activation=arguments.activation(activation),
        direction=arguments.one_of("--pass", direction, *DIRECTIONS),
        threads=threads,
        precision=arguments.precision(precision),
    )
    _explain(arguments.conv2d_shapes("", *given, smallest=0)[0], settings, json)


def _device(text: str) -> str:
    return arguments.one_of("--device", text, "cpu", "cuda", *devices.BUILTIN)


def _explain(shape: Shape, settings: Settings, json: bool) -> None:
    device, precision = settings.device, settings.precision
    if device == "cuda":
        devices.current("cuda")  # says so if there is none
    with arguments.threads(settings.threads):
        if device in ("cpu", "cuda"):
            operation, problem = problem_of(shape, settings)
            explanation = explain_problem(
                operation, problem, devices.current("cuda" if device == "cuda" else "cpu")
            )
        else:
            operation, problem = problem_of(shape, replace(settings, device="cpu", precision="ieee"))
            elsewhere = on_other_device(problem, precision=precision)
            explanation = explain_problem(operation, elsewhere, devices.builtin(device))
    if json:
        typer.echo(jsonlib.dumps(explanation.to_dict(), indent=1, default=str))
    else:
        typer.echo(str(explanation))
