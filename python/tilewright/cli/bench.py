"""``tilewright bench matmul``: side by side with everything that torch offers for the same product."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tilewright import dispatch, tuner
from tilewright.benchmark.contenders import Layout
from tilewright.benchmark.results import OURS, PACKED, Report, ShapeResult
from tilewright.benchmark.run import Settings, run
from tilewright.benchmark.shapes import Shape
from tilewright.cli import arguments
from tilewright.cli.problems import problems_of
from tilewright.errors import ArgumentError
from tilewright.explain import format_seconds


def bench_matmul(
    shapes: arguments.ShapesOption = "resnet",
    m: arguments.SizeOption = None,
    n: arguments.SizeOption = None,
    k: arguments.SizeOption = None,
    dtype: arguments.DtypeOption = "f32",
    activation: arguments.ActivationOption = "none",
    bias: arguments.BiasOption = True,
    layout: arguments.LayoutOption = "linear",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="fp32 on GPUs: ieee or tf32, for torch and tilewright.")
    ] = "ieee",
    threads: arguments.ThreadsOption = None,
    tune: Annotated[bool, typer.Option("--tune", help="Tune every shape first.")] = False,
    tune_budget_s: Annotated[float, typer.Option(min=0.01, help="Seconds of tuning per shape.")] = 4.0,
    budget_s: Annotated[float, typer.Option(min=0.0, help="Seconds of rounds per shape.")] = 1.0,
    compile_budget_s: Annotated[
        float, typer.Option(min=0.0, help="Seconds that torch.compile may take in all; 0 leaves it out.")
    ] = 60.0,
    json: arguments.JsonOption = None,
    csv: Annotated[Path | None, typer.Option(help="Also write a line per measurement to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw a roofline and speed-ups (.png, .svg).")
    ] = None,
) -> None:
    """Time matmul against eager torch in both layouts, oneDNN prepacked (or cuBLASLt), and torch.compile.

    "tilewright packed" is a layer of tilewright.nn, whose weight is packed beforehand as oneDNN's is.
    Runs interleaved in one process, on random data in buffers that rotate past the last-level cache; every
    result is compared with float64. Rounds in which the machine slowed down are repeated. Times are medians
    with the 20th and 80th percentile; roofline is the share of what the peak and bandwidth, measured in this
    run, allow. Exits with 1 if a result of tilewright's is wrong.
    """
    for path in (json, csv, plot):
        arguments.output_file(path)
    if plot is not None:
        _require_matplotlib()
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ArgumentError(f"--device is {device!r}; expected cpu or cuda")
    if precision not in ("ieee", "tf32"):
        raise ArgumentError(f"--precision is {precision!r}; expected ieee or tf32")
    listed = arguments.shapes(shapes, m, n, k)
    settings = Settings(
        dtype=arguments.dtype(dtype),
        device=device,
        layout=cast(Layout, arguments.layout(layout)),
        bias=bias,
        activation=arguments.activation(activation),
        threads=threads,
        precision=precision,
        compile_budget_s=compile_budget_s,
        budget_s=budget_s,
    )
    remarks, console = arguments.error_console(), arguments.result_console()
    if tune:
        with arguments.threads(threads):
            problems = problems_of(listed, settings, frozen=device == "cpu")
            found = tuner.tune_problems(problems, budget_s=tune_budget_s)
        dispatch.forget()
        if found.interrupted:
            raise typer.Exit(130)
    report = _measure(remarks, listed, settings, json)
    for result in report.shapes:
        console.print(_table(report, result))
    _print_summary(console, report)
    if json is not None:
        report.write_json(json)
    if csv is not None:
        report.write_csv(csv)
    if plot is not None and report.shapes:
        from tilewright.benchmark.plot import plot_report

        plot_report(report, plot)
    wrong = report.wrong()
    for line in wrong:
        console.print(f"[red]wrong result: {escape(line)}[/red]")
    if wrong:
        raise typer.Exit(1)


def _measure(remarks: Console, listed: tuple[Shape, ...], settings: Settings, json: Path | None) -> Report:
    grown: list[Report] = []
    with arguments.progress_bar(remarks) as bar:
        task = bar.add_task("measuring peak and bandwidth", total=len(listed))

        def after(report: Report) -> None:
            bar.update(task, completed=len(report.shapes))
            grown[:] = [report]
            if json is not None:
                report.write_json(json)

        try:
            return run(
                listed,
                settings,
                before=lambda shape, done: bar.update(task, description=str(shape), completed=done),
                after=after,
            )
        except KeyboardInterrupt:
            if not grown:
                raise
    remarks.print(
        f"[yellow]interrupted: {len(grown[0].shapes)} of {len(listed)} shapes were measured[/yellow]"
    )
    return grown[0]


def _table(report: Report, result: ShapeResult) -> Table:
    floor = format_seconds(report.floor(result))
    flags = "" if result.steady else "; the machine was unsteady"
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title=f"{result.shape} (M×N×K)",
        caption=f"floor {floor}; {result.rounds} rounds, {result.repeated} repeated{flags}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("implementation", no_wrap=True)
    for heading in ("p50", "p20–p80", "GFLOP/s", "roofline", "× eager", "× best", "max error"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("kernel", overflow="fold")
    best = min((entry.p50 for entry in result.entries if entry.right), default=0.0)
    for entry in result.entries:
        ratios = [report.ratio(result, entry, best=which) for which in (False, True)]
        error = f"{entry.error:.1e}" if entry.right else f"[red]{entry.error:.1e} WRONG[/red]"
        style = "bold" if entry.contender in (OURS, PACKED) else "green" if entry.p50 == best else ""
        table.add_row(
            entry.contender,
            format_seconds(entry.p50),
            arguments.format_range(entry.p20, entry.p80),
            f"{entry.flops_per_second / 1e9:.4g}",
            f"{report.roofline(result, entry):.0%}",
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            error,
            escape(entry.detail),
            style=style,
        )
    return table


def _print_summary(console: Console, report: Report) -> None:
    absent: dict[str, str] = {}
    for result in report.shapes:
        absent.update(result.absent)
    for name, reason in absent.items():
        console.print(f"[dim]{escape(name)} left out: {escape(reason)}[/dim]", highlight=False)
    ceiling, where = report.ceiling, report.environment
    console.print(
        f"{where['device']} ({where['arch']}), {where['threads']} threads, torch {where['versions']['torch']}; "
        f"measured {ceiling['flops'] / 1e9:.4g} GFLOP/s and {ceiling['bandwidth'] / 1e9:.3g} GB/s",
        highlight=False,
    )
    if report.disturbed():
        console.print(
            "[yellow]some results beat the measured peak: other work held the probes up, so the roofline "
            "shares mean nothing; measure on a quiet machine[/yellow]"
        )
    for contender in (OURS, PACKED):
        for summary in report.summaries(contender):
            console.print(
                f"{contender} is [bold]{summary.geomean:.2f}×[/bold] {summary.against} over {summary.shapes} shapes "
                f"(geomean; p10 {summary.p10:.2f}×, worst {summary.worst:.2f}× at {summary.worst_shape})",
                highlight=False,
            )
    counts = ", ".join(f"{backend} {count}" for backend, count in sorted(report.choices().items()))
    console.print(f"chosen: {counts}", highlight=False)


def _require_matplotlib() -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise ArgumentError("--plot needs matplotlib, which is not installed; pip install 'tilewright[cli]'")
