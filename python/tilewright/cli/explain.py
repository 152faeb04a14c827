"""``tilewright explain matmul``: which kernel a problem would run, here or on a GPU that is not here."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, cast

import typer

from tilewright.benchmark.contenders import Layout
from tilewright.benchmark.run import Settings
from tilewright.cli import arguments
from tilewright.cli.problems import on_other_device, problem_of
from tilewright.errors import ArgumentError
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
    device: Annotated[
        str, typer.Option(help=f"cpu, cuda, or by data sheet: {', '.join(devices.BUILTIN)}.")
    ] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 on GPUs: ieee or tf32.")] = "ieee",
    threads: arguments.ThreadsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say which kernel runs a problem, where that choice comes from, and why each other one was not taken.

    Runs and measures nothing.
    """
    if device not in ("cpu", "cuda", *devices.BUILTIN):
        raise ArgumentError(f"--device is {device!r}; expected cpu, cuda, {', '.join(devices.BUILTIN)}")
    if precision not in ("ieee", "tf32"):
        raise ArgumentError(f"--precision is {precision!r}; expected ieee or tf32")
    shape = arguments.shapes("", m, n, k, smallest=0)[0]
    here = device in ("cpu", "cuda")
    settings = Settings(
        dtype=arguments.dtype(dtype),
        device=device if here else "cpu",
        layout=cast(Layout, arguments.layout(layout)),
        bias=bias,
        activation=arguments.activation(activation),
        precision=precision,
    )
    if device == "cuda":
        devices.current("cuda")  # says so if there is none
    with arguments.threads(threads):
        operation, problem = problem_of(shape, settings)
    if here:
        explanation = explain_problem(
            operation, problem, devices.current("cuda" if device == "cuda" else "cpu")
        )
    else:
        spec = devices.builtin(device)
        explanation = explain_problem(operation, on_other_device(problem, precision=precision), spec)
    if json:
        typer.echo(jsonlib.dumps(explanation.to_dict(), indent=1, default=str))
    else:
        typer.echo(str(explanation))
