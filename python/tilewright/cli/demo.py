"""``tilewright demo``: shows a network trained and run through tilewright, beside eager torch."""

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

from tilewright import demo as demonstration
from tilewright.benchmark.environment import environment
from tilewright.cli.arguments import error_console, format_range, progress_bar, result_console
from tilewright.demo import EAGER, OURS, Demo, TilewrightNet, TorchNet
from tilewright.errors import ArgumentError
from tilewright.explain import format_seconds

BATCHES = (1, 8, 32, 128, 512)


def demo_command(
    out: Annotated[Path, typer.Option(help="Where demo.png and demo.json go.")] = Path("demo-out"),
    quick: Annotated[bool, typer.Option("--quick", help="A short run without torch.compile.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the parameters, the split and the order of images.")] = 0,
) -> None:
    """Train an MLP on handwritten digits through tilewright, prove it equal to torch's, and time both.

    Exits with 1 if the accuracy stays below 96 % or a result differs from float64 by more than its bound.
    """
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"--out is {out}, which is a file; name a directory")
    console, remarks = result_console(), error_console()
    data = demonstration.load_data(seed)
    batches = tuple(sorted({*BATCHES, len(data.test_x)}))  # all of the test images at once, too
    net = demonstration.make_net(TilewrightNet, seed)
    console.print(
        f"[bold]Handwritten digits[/bold]: {len(data.train_x)} images to train on, {len(data.test_x)} to test; "
        f"MLP {' → '.join(map(str, demonstration.WIDTHS))}, ReLU, fp32, {torch.get_num_threads()} threads"
    )
    tuned = demonstration.tune_everything(net, data, batches, 0.05 if quick else 0.4, progress=True)
    console.print(
        f"tuned {len(tuned.results)} problems on this machine, for training and for inference; remembered"
    )
    found = _train(remarks, data, epochs, seed, net)
    _print_training(console, found)
    _compare(remarks, found, net, data, batches, quick)
    console.print(_latency_table(found))
    for name, reason in found.absent.items():
        console.print(f"[dim]{name} left out: {escape(reason)}[/dim]", highlight=False)
    console.print(_layer_table(found))
    console.print("[bold]What explain says of the first layer at batch 128[/bold]")
    console.print(escape(str(found.explanation)), soft_wrap=True, highlight=False)
    _write(console, found, out)
    for problem in found.problems:
        console.print(f"[red]{escape(problem)}[/red]")
    if found.problems:
        raise typer.Exit(1)


def _train(remarks: Console, data: demonstration.Data, epochs: int, seed: int, net: TorchNet) -> Demo:
    trained: dict[str, demonstration.Training] = {}
    with progress_bar(remarks) as bar:
        for name, model in ((OURS, net), (EAGER, demonstration.make_net(TorchNet, seed))):
            task = bar.add_task(f"training through {name}", total=epochs)
            advance = partial(bar.advance, task)
            trained[name] = demonstration.train(model, data, epochs, advance, seed)
    found = Demo(ours=trained[OURS], theirs=trained[EAGER])
    demonstration.judge(found)
    return found


def _compare(
    remarks: Console,
    found: Demo,
    net: TorchNet,
    data: demonstration.Data,
    batches: tuple[int, ...],
    quick: bool,
) -> None:
    with progress_bar(remarks) as bar:
        task = bar.add_task("timing", total=len(batches))
        demonstration.compare(
            found,
            net,
            data,
            batches,
            budget_s=0.05 if quick else 0.8,
            compile_too=not quick,
            advance=partial(bar.advance, task),
        )


def _print_training(console: Console, found: Demo) -> None:
    for name, training in ((OURS, found.ours), (EAGER, found.theirs)):
        console.print(
            f"{name}: loss {training.losses[0]:.3f} → {training.losses[-1]:.4f}, test accuracy "
            f"[bold]{training.accuracy:.2%}[/bold], {len(training.losses)} steps in {training.seconds:.1f} s",
            highlight=False,
        )
    console.print(f"the two loss curves differ by at most {found.largest_gap:.1e}", highlight=False)


def _latency_table(found: Demo) -> Table:
    table = Table(
        title="Forward pass, the trained network", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("batch", justify="right")
    table.add_column("implementation", no_wrap=True)
    for heading in ("p50", "p20–p80", "× eager", "error", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for row in found.rows:
        if previous is not None and row.batch != previous:
            table.add_section()
        timing = row.timing
        table.add_row(
            str(row.batch) if row.batch != previous else "",
            row.name,
            format_seconds(timing.p50),
            format_range(timing.p20, timing.p80),
            f"{row.speedup:.2f}",
            f"{row.error:.1e}",
            f"{row.accuracy:.2%}",
            style="bold" if row.name == OURS else "",
        )
        previous = row.batch
    return table


def _layer_table(found: Demo) -> Table:
    title = "What runs each layer of the row tilewright"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("batch", "first", "second", "head"):
        table.add_column(heading, justify="right" if heading == "batch" else "left")
    for layer in found.layers:
        table.add_row(layer["batch"], *(escape(layer[name]) for name in ("first", "second", "head")))
    return table


def _write(console: Console, found: Demo, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    where = environment(torch.device("cpu"))
    content = {"environment": where, **found.to_dict()}
    (out / "demo.json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    written = [out / "demo.json"]
    if importlib.util.find_spec("matplotlib") is not None:
        from tilewright.cli.demo_plot import plot_demo

        plot_demo(found, where, out / "demo.png")
        written.append(out / "demo.png")
    else:
        console.print("no plot: matplotlib is not installed; pip install 'tilewright[cli]'", highlight=False)
    console.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
