"""``tilewright bench models``: whole models, side by side with torch, torch.compile and ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tilewright.benchmark.models.contenders import BUILDERS
from tilewright.benchmark.models.plot import plot_models
from tilewright.benchmark.models.shapes import BATCHES, LISTS, ModelShape, made_small
from tilewright.benchmark.results import Report, ShapeResult
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import named
from tilewright.cli import arguments
from tilewright.cli.bench import Files, measure_and_show, result_table
from tilewright.errors import ArgumentError

_LEAST_ROUNDS, _MOST_ROUNDS = 7, 100


def bench_models(
    models: Annotated[
        str, typer.Option(help=f"Comma-separated: {', '.join(LISTS)}, all. resnet50@8: with 8 images alone.")
    ] = "all",
    batch: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = ",".join(map(str, BATCHES)),
    contenders: Annotated[
        str | None, typer.Option(help="Comma-separated; eager torch always runs. Default all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small models, few rounds, nothing that compiles.")
    ] = False,
    threads: arguments.ThreadsOption = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Tune what each model meets first, packed and plain.")
    ] = False,
    tune_budget_s: Annotated[float, typer.Option(min=0.01, help="Seconds of tuning per problem.")] = 4.0,
    budget_s: Annotated[
        float, typer.Option("--budget-s", min=0.0, help="Seconds of rounds per contender and model.")
    ] = 3.0,
    compile_budget_s: arguments.CompileBudgetOption = 14400.0,
    max_autotune: Annotated[
        bool, typer.Option("--max-autotune", help="torch.compile in that mode, too.")
    ] = False,
    json: arguments.JsonOption = None,
    csv: arguments.CsvOption = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw speed-ups (.png, .svg).")] = None,
) -> None:
    """Time whole models in inference, fp32: eager torch in both memory formats, torch.compile, ONNX Runtime, ours.

    "x eager" is against eager torch in the faster of its two formats, "x best" against the fastest of eager,
    torch.compile (with Inductor's freezing too) and ONNX Runtime on as many threads. "tilewright accelerate" keeps
    what is faster for these inputs; "tilewright compile" is torch.compile's backend. "of peak" is the share of the
    multiply-adds that the machine's registers could do, probed in this run. Runs interleaved in one process; every
    result is compared with float64. Exits with 1 if one of tilewright's errs more than twice as much as eager torch.
    """
    files = Files(json, csv, plot, plot_models)
    files.check()
    settings = Settings(
        operation="models",
        threads=threads,
        compile_budget_s=0.0 if quick else compile_budget_s,
        budget_s=0.0 if quick else budget_s * len(BUILDERS),
        rounds=(3, 3) if quick else (_LEAST_ROUNDS, _MOST_ROUNDS),
        tune_budget_s=(min(tune_budget_s, 0.05) if quick else tune_budget_s) if tune else None,
        autotune=max_autotune,
        contenders=None if contenders is None else _contenders(contenders),
    )
    listed = _shapes(models, batch)
    measure_and_show(made_small(listed) if quick else listed, settings, files, _table)


def _shapes(models: str, batch: str) -> tuple[ModelShape, ...]:
    """The models at each of the batch sizes, one model after the other."""
    words = [word.strip() for word in batch.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise ArgumentError(f"--batch is {batch!r}; expected positive integers, separated by commas")
    sizes = [int(word) for word in words]
    found: dict[ModelShape, None] = {}
    for name in models.split(","):
        chosen = named(name, LISTS)
        wanted = {shape.name: [shape.batch] if "@" in name else sizes for shape in chosen}
        found.update(dict.fromkeys(ModelShape(model, size) for model in wanted for size in wanted[model]))
    return tuple(found)


def _contenders(text: str) -> tuple[str, ...]:
    chosen = tuple(word.strip() for word in text.split(","))
    for word in chosen:
        arguments.one_of("--contenders", word, *BUILDERS)
    # Of everything else the speed-up is over these.
    return tuple(name for name in BUILDERS if name in chosen or name.startswith("torch eager"))


def _table(report: Report, result: ShapeResult) -> Table:
    return result_table(report, result, "of peak", report.of_peak)
