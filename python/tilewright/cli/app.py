"""Puts the commands together, and turns tilewright's errors into one line each."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tilewright.cli.bench import bench_conv2d, bench_matmul
from tilewright.cli.bench_models import bench_models
from tilewright.cli.compile import compile_command
from tilewright.cli.demo import demo_command
from tilewright.cli.doctor import doctor_command
from tilewright.cli.explain import explain_conv2d, explain_matmul
from tilewright.cli.tune import tune_conv2d, tune_matmul
from tilewright.errors import ArgumentError, Error
from tilewright.version import __version__


class _Group(TyperGroup):
    """An argument that makes no sense exits with 2, any other refusal with 1; neither shows a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ArgumentError as error:
            raise typer.BadParameter(str(error), ctx=ctx) from error
        except Error as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Group,
    name="tilewright",
    help="Hand-written, autotuned kernels for PyTorch.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("doctor")(doctor_command)
app.command("compile")(compile_command)
app.command("demo")(demo_command)
for _name, _help, _matmul, _conv2d in (
    ("bench", "Time tilewright side by side with the best of torch.", bench_matmul, bench_conv2d),
    ("tune", "Measure on this machine which kernel is fastest, and remember it.", tune_matmul, tune_conv2d),
    ("explain", "Say which kernel a problem would run, and why.", explain_matmul, explain_conv2d),
):
    _group = typer.Typer(cls=_Group, no_args_is_help=True, help=_help)
    _group.command("matmul")(_matmul)
    _group.command("conv2d")(_conv2d)
    if _name == "bench":
        _group.command("models")(bench_models)
    app.add_typer(_group, name=_name)
