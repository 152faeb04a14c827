"""``tilewright bench``: side by side with everything that torch offers for the same operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tilewright import dispatch, tuner
from tilewright.benchmark.conv2d.shapes import LAYOUTS as FORMATS
from tilewright.benchmark.matmul.shapes import LAYOUTS
from tilewright.benchmark.plot import plot_report
from tilewright.benchmark.results import Entry, Report, ShapeResult
from tilewright.benchmark.run import run
from tilewright.benchmark.settings import DIRECTIONS, Settings
from tilewright.benchmark.shapes import Shape
from tilewright.cli import arguments
from tilewright.cli.problems import timed_problems
from tilewright.errors import ArgumentError
from tilewright.explain import format_seconds


def bench_matmul(
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
    tune: arguments.TuneOption = False,
    tune_budget_s: arguments.TuneFirstBudgetOption = 4.0,
    budget_s: arguments.RoundsBudgetOption = 1.0,
    compile_budget_s: arguments.CompileBudgetOption = 60.0,
    json: arguments.JsonOption = None,
    csv: arguments.CsvOption = None,
    plot: arguments.PlotOption = None,
) -> None:
    """Time matmul against eager torch in both layouts, oneDNN prepacked (or cuBLASLt), and torch.compile.

    "tilewright packed" is a layer of tilewright.nn, whose weight is packed beforehand as oneDNN's is.
    Runs interleaved in one process, on random data in buffers that rotate past the last-level cache; every
    result is compared with float64. Rounds in which the machine slowed down are repeated. Times are medians
    with the 20th and 80th percentile; roofline is the share of what the peak and bandwidth, measured in this
    run, allow. Exits with 1 if a result of tilewright's is wrong.
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
        compile_budget_s=compile_budget_s,
        budget_s=budget_s,
    )
    files = Files(json, csv, plot)
    _bench(arguments.matmul_shapes(shapes, m, n, k), settings, tune_budget_s if tune else None, files)


def bench_conv2d(
    shapes: arguments.Conv2dListsOption = "resnet50",
    shape: arguments.ImageOption = "",
    out_channels: arguments.OutChannelsOption = None,
    kernel: arguments.KernelOption = "3x3",
    stride: arguments.StrideOption = "1",
    padding: arguments.PaddingOption = "0",
    dilation: arguments.DilationOption = "1",
    groups: arguments.GroupsOption = 1,
    dtype: arguments.DtypeOption = "f32",
    activation: arguments.ActivationOption = "relu",
    bias: arguments.BiasOption = True,
    residual: arguments.ResidualOption = False,
    layout: arguments.FormatOption = "channels_last",
    direction: arguments.PassOption = "forward",
    device: arguments.DeviceOption = "cpu",
    precision: arguments.PrecisionOption = "ieee",
    threads: arguments.ThreadsOption = None,
    tune: arguments.TuneOption = False,
    tune_budget_s: arguments.TuneFirstBudgetOption = 4.0,
    budget_s: arguments.RoundsBudgetOption = 1.0,
    compile_budget_s: arguments.CompileBudgetOption = 0.0,
    json: arguments.JsonOption = None,
    csv: arguments.CsvOption = None,
    plot: arguments.PlotOption = None,
) -> None:
    """Time conv2d against eager torch and oneDNN prepacked (or cuDNN fused), each in NCHW and in channels_last.

    "x eager" is against the faster of torch's two formats. "tilewright" runs in the one of --layout; "packed" is a
    layer of tilewright.nn, "tf32" the same where that precision admits Winograd's algorithm, whose error is larger.
    A gradient (--pass) is compared with torch's. How it is measured: as for bench matmul. Roofline counts the terms
    that meet the image, not its padding, and no algorithm that needs fewer multiplications. Exits with 1 if a result
    of tilewright's is wrong.
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
        compile_budget_s=compile_budget_s,
        budget_s=budget_s,
    )
    files = Files(json, csv, plot)
    _bench(arguments.conv2d_shapes(shapes, *given), settings, tune_budget_s if tune else None, files)


@dataclass(frozen=True, slots=True)
class Files:
    """Where the results go, and what draws them."""

    json: Path | None
    csv: Path | None
    plot: Path | None
    draw: Callable[[Report, Path], None] = plot_report

    def check(self) -> None:
        for path in (self.json, self.csv, self.plot):
            arguments.output_file(path)
        if self.plot is not None:
            _require_matplotlib()

    def write(self, report: Report) -> None:
        if self.json is not None:
            report.write_json(self.json)
        if self.csv is not None:
            report.write_csv(self.csv)
        if self.plot is not None and report.shapes:
            self.draw(report, self.plot)


def _bench(listed: Sequence[Shape], settings: Settings, tune_s: float | None, files: Files) -> None:
    files.check()
    if tune_s is not None:
        _tune(listed, settings, tune_s)
    measure_and_show(listed, settings, files, _table)


def measure_and_show(
    listed: Sequence[Shape],
    settings: Settings,
    files: Files,
    table: Callable[[Report, ShapeResult], Table],
) -> None:
    """Measures, prints a table for each shape and a summary, and writes the files; exits with 1 if ours is wrong."""
    remarks, console = arguments.error_console(), arguments.result_console()
    report = _measure(remarks, listed, settings, files.json)
    for result in report.shapes:
        console.print(table(report, result))
    _print_summary(console, report)
    files.write(report)
    wrong = report.wrong()
    for line in wrong:
        console.print(f"[red]wrong result: {escape(line)}[/red]")
    if wrong:
        raise typer.Exit(1)


def _tune(listed: Sequence[Shape], settings: Settings, budget_s: float) -> None:
    with arguments.threads(settings.threads):
        found = tuner.tune_problems(timed_problems(listed, settings), budget_s=budget_s)
    dispatch.forget()
    if found.interrupted:
        raise typer.Exit(130)


def _measure(remarks: Console, listed: Sequence[Shape], settings: Settings, json: Path | None) -> Report:
    grown: list[Report] = []
    named = [""]
    with arguments.progress_bar(remarks) as bar:
        task = bar.add_task("measuring peak and bandwidth", total=len(listed))

        def before(shape: Shape, done: int) -> None:
            named[:] = [str(shape)]
            bar.update(task, description=named[0], completed=done)

        def doing(what: str) -> None:
            bar.update(task, description=f"{named[0]}: {what}")
            # A log shows no bar, and a model may take minutes.
            if settings.operation == "models" and not remarks.is_terminal:
                remarks.print(f"{named[0]}: {what}", highlight=False)

        def after(report: Report) -> None:
            bar.update(task, completed=len(report.shapes))
            grown[:] = [report]
            if json is not None:
                report.write_json(json)

        try:
            return run(
                listed,
                settings,
                before=before,
                after=after,
                doing=doing,
            )
        except KeyboardInterrupt:
            if not grown:
                raise
    remarks.print(
        f"[yellow]interrupted: {len(grown[0].shapes)} of {len(listed)} shapes were measured[/yellow]"
    )
    return grown[0]


def _table(report: Report, result: ShapeResult) -> Table:
    return result_table(report, result, "roofline", lambda entry: report.roofline(result, entry))


def result_table(report: Report, result: ShapeResult, share: str, of: Callable[[Entry], float]) -> Table:
    """A line for each contender; `share` is the heading of what `of` says."""
    floor = format_seconds(report.floor(result))
    flags = "" if result.steady else "; the machine was unsteady"
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title=f"{result.shape} ({result.shape.spelling})",
        caption=f"floor {floor}; {result.rounds} rounds, {result.repeated} repeated{flags}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("implementation", no_wrap=True)
    for heading in ("p50", "p20–p80", "GFLOP/s", share, "× eager", "× best", "max error"):
        table.add_column(heading, justify="right", no_wrap=True)
    if any(entry.detail for entry in result.entries):
        table.add_column("kernel", overflow="fold")
    best = min((entry.p50 for entry in result.entries if entry.right), default=0.0)
    for entry in result.entries:
        ratios = [report.ratio(result, entry, best=which) for which in (False, True)]
        error = f"{entry.error:.1e}" if entry.right else f"[red]{entry.error:.1e} WRONG[/red]"
        style = "bold" if entry.contender in report.summed else "green" if entry.p50 == best else ""
        table.add_row(
            entry.contender,
            format_seconds(entry.p50),
            arguments.format_range(entry.p20, entry.p80),
            f"{entry.flops_per_second / 1e9:.4g}",
            f"{of(entry):.0%}",
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            error,
            *((escape(entry.detail),) if len(table.columns) > 8 else ()),
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
    for contender in report.summed:
        for summary in report.summaries(contender):
            console.print(
                f"{contender} is [bold]{summary.geomean:.2f}×[/bold] {summary.against} over {summary.shapes} shapes "
                f"(geomean; p10 {summary.p10:.2f}×, worst {summary.worst:.2f}× at {summary.worst_shape})",
                highlight=False,
            )
    if len(report.families()) > 1:
        console.print(_lists_table(report))
    if not any(result.choice for result in report.shapes):
        return
    counts = ", ".join(f"{backend} {count}" for backend, count in sorted(report.choices().items()))
    console.print(f"chosen: {counts}", highlight=False)


def _lists_table(report: Report) -> Table:
    """Each list by itself."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("list", "implementation", "against"):
        table.add_column(heading, no_wrap=True)
    for heading in ("shapes", "geomean", "p10", "worst"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("at", overflow="fold")
    for family in report.families():
        for contender in report.summed:
            for summary in report.summaries(contender, family):
                ratios = (f"{ratio:.2f}" for ratio in (summary.geomean, summary.p10, summary.worst))
                table.add_row(
                    family, contender, summary.against, str(summary.shapes), *ratios, summary.worst_shape
                )
        table.add_section()
    return table


def _require_matplotlib() -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise ArgumentError("--plot needs matplotlib, which is not installed; pip install 'tilewright[cli]'")
