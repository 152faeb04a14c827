"""``tilewright tune matmul``: measures which kernel is fastest here, and remembers it."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, cast

import typer
from rich.markup import escape

from tilewright import dispatch, tuner
from tilewright.benchmark.contenders import Layout
from tilewright.benchmark.run import Settings
from tilewright.cli import arguments
from tilewright.cli.problems import problems_of
from tilewright.errors import ArgumentError
from tilewright.tuner.store import user_store


def tune_matmul(
    shapes: arguments.ShapesOption = "resnet",
    m: arguments.SizeOption = None,
    n: arguments.SizeOption = None,
    k: arguments.SizeOption = None,
    dtype: arguments.DtypeOption = "f32",
    activation: arguments.ActivationOption = "none",
    bias: arguments.BiasOption = True,
    layout: arguments.LayoutOption = "linear",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 on GPUs: ieee or tf32.")] = "ieee",
    threads: arguments.ThreadsOption = None,
    packed: Annotated[
        bool, typer.Option("--packed", help="Also for packed weights, those of layers of tilewright.nn.")
    ] = False,
    budget_s: Annotated[float, typer.Option(min=0.01, help="Seconds per problem.")] = 4.0,
    json: arguments.JsonOption = None,
) -> None:
    """Tune problems and keep the winners in the user's store (TILEWRIGHT_CACHE_DIR).

    Only candidates whose results agree with float64 are timed. Ctrl-C keeps what is finished.
    """
    arguments.output_file(json)
    if device not in ("cpu", "cuda"):
        raise ArgumentError(f"--device is {device!r}; expected cpu or cuda")
    settings = Settings(
        dtype=arguments.dtype(dtype),
        device=device,
        layout=cast(Layout, arguments.layout(layout)),
        bias=bias,
        activation=arguments.activation(activation),
        threads=threads,
        precision=precision,
    )
    if packed and device != "cpu":
        raise ArgumentError(f"--packed with --device {device}: weights are packed on CPUs only; leave it out")
    listed = arguments.shapes(shapes, m, n, k)
    with arguments.threads(threads):
        report = tuner.tune_problems(problems_of(listed, settings, frozen=packed), budget_s=budget_s)
    dispatch.forget()
    console = arguments.result_console()
    console.print(escape(str(report)), soft_wrap=True, highlight=False)
    console.print(f"kept in {user_store().path}", soft_wrap=True, highlight=False)
    if json is not None:
        json.write_text(jsonlib.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    if report.interrupted:
        raise typer.Exit(130)
