"""``tilewright demo``: shows a network trained through tilewright, and models made faster, beside torch."""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from tilewright import demo as demonstration
from tilewright.benchmark.results import Report, ShapeResult
from tilewright.cli.arguments import error_console, format_range, progress_bar, result_console
from tilewright.demo import Demo
from tilewright.errors import ArgumentError
from tilewright.examples import train_cnn
from tilewright.examples.digits import Data
from tilewright.examples.training import OURS, THEIRS
from tilewright.explain import format_seconds


def demo_command(
    out: Annotated[Path, typer.Option(help="Where demo.png and demo.json go.")] = Path("demo-out"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A short run without torch.compile, ResNet-18 small.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = (
        train_cnn.EXAMPLE.epochs
    ),
    seed: Annotated[int, typer.Option(help="Of the parameters, the split and the order of images.")] = 0,
) -> None:
    """Train a CNN on handwritten digits through tilewright, accelerate it and a ResNet-18, and time both beside torch.

    Exits with 1 if the accuracy stays below 97 %, the loss curves of tilewright and torch differ, or a result differs
    from float64 more than twice as much as eager torch's.
    """
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"--out is {out}, which is a file; name a directory")
    console, remarks = result_console(), error_console()
    data = train_cnn.EXAMPLE.data(seed)
    console.print(
        f"[bold]Handwritten digits[/bold]: {len(data.train_x)} images to train on, {len(data.test_x)} to test; "
        "two 3×3 convolutions of 64 and 128 channels, pooling, linear 512 and 10, fp32, "
        f"{torch.get_num_threads()} threads"
    )
    tuned = demonstration.tune_training(data, 0.05 if quick else 0.4, progress=True)
    console.print(f"tuned the {tuned} problems of a training step on this machine; remembered")
    found, net = _train(remarks, data, epochs, seed)
    _print_training(console, found)
    report = _compare(remarks, found, net, data, quick)
    for result in report.shapes:
        console.print(_table(found, report, result))
    _print_absent(console, report)
    console.print("[bold]What accelerate did with the trained network[/bold]")
    console.print(found.accelerated)
    console.print("[bold]What explain says of its second convolution[/bold]")
    console.print(escape(str(found.explanation)), soft_wrap=True, highlight=False)
    _write(console, found, report, out)
    for problem in found.problems:
        console.print(f"[red]{escape(problem)}[/red]")
    if found.problems:
        raise typer.Exit(1)


def _train(remarks: Console, data: Data, epochs: int, seed: int) -> tuple[Demo, nn.Module]:
    results = []
    with progress_bar(remarks) as bar:
        for name, make in ((OURS, train_cnn.EXAMPLE.ours), (THEIRS, train_cnn.EXAMPLE.theirs)):
            task = bar.add_task(f"training through {name}", total=epochs)
            results.append(demonstration.trained(make, data, epochs, partial(bar.advance, task), seed))
    (net, ours), (_, theirs) = results
    found = Demo(ours=ours, theirs=theirs)
    demonstration.judge_training(found)
    return found, net


def _compare(remarks: Console, found: Demo, net: nn.Module, data: Data, quick: bool) -> Report:
    named = [""]
    with progress_bar(remarks) as bar:
        task = bar.add_task("measuring the peak", total=len(demonstration.BATCHES) + 1)

        def before(shape: object, done: int) -> None:
            named[:] = [str(shape)]
            bar.update(task, description=named[0], completed=done)

        def doing(what: str) -> None:
            bar.update(task, description=f"{named[0]}: {what}")

        demonstration.compare(found, net, data, quick=quick, before=before, doing=doing)
    assert found.report is not None
    return found.report


def _print_training(console: Console, found: Demo) -> None:
    for name, training in ((OURS, found.ours), (THEIRS, found.theirs)):
        console.print(
            f"{name}: loss {training.losses[0]:.3f} → {training.losses[-1]:.4f}, test accuracy "
            f"[bold]{training.accuracy:.2%}[/bold], {len(training.losses)} steps in {training.seconds:.1f} s",
            highlight=False,
        )
    console.print(f"the two loss curves differ by at most {found.largest_gap:.1e}", highlight=False)


def _table(found: Demo, report: Report, result: ShapeResult) -> Table:
    table = Table(
        title=f"{result.shape}: {result.problem}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("implementation", no_wrap=True)
    headings = ["p50", "p20–p80", "× eager", "× best", "max error"]
    scored = str(result.shape) in found.accuracies
    for heading in headings + (["accuracy"] if scored else []):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in result.entries:
        ratios = [report.ratio(result, entry, best=which) for which in (False, True)]
        score = found.accuracy(result, entry)
        table.add_row(
            entry.contender,
            format_seconds(entry.p50),
            format_range(entry.p20, entry.p80),
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            f"{entry.error:.1e}" if entry.right else f"[red]{entry.error:.1e} WRONG[/red]",
            *(("-" if score is None else f"{score:.2%}",) if scored else ()),
            style="bold" if entry.contender in report.summed else "",
        )
    return table


def _print_absent(console: Console, report: Report) -> None:
    absent: dict[str, str] = {}
    for result in report.shapes:
        absent.update(result.absent)
    for name, reason in absent.items():
        console.print(f"[dim]{escape(name)} left out: {escape(reason)}[/dim]", highlight=False)


def _write(console: Console, found: Demo, report: Report, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = {"environment": report.environment, **found.to_dict()}
    (out / "demo.json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    written = [out / "demo.json"]
    if importlib.util.find_spec("matplotlib") is not None:
        from tilewright.cli.demo_plot import plot_demo

        plot_demo(found, report, out / "demo.png")
        written.append(out / "demo.png")
    else:
        console.print("no plot: matplotlib is not installed; pip install 'tilewright[cli]'", highlight=False)
    console.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
