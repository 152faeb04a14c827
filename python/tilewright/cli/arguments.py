"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tilewright.benchmark.shapes import LISTS, Shape, named
from tilewright.errors import ArgumentError
from tilewright.explain import format_seconds
from tilewright.kernels.epilogue import ACTIVATIONS

DTYPES = {
    "f32": torch.float32,
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "f16": torch.float16,
    "fp16": torch.float16,
    "float16": torch.float16,
}

ShapesOption = Annotated[
    str, typer.Option("--shapes", help=f"Published lists, comma-separated: {', '.join(LISTS)}, all.")
]
SizeOption = Annotated[
    int | None, typer.Option(min=0, help="One problem instead of a list: give m, n and k.")
]
DtypeOption = Annotated[str, typer.Option(help="f32, bf16 or f16.")]
ActivationOption = Annotated[str, typer.Option(help=f"{', '.join(ACTIVATIONS)}.")]
BiasOption = Annotated[bool, typer.Option("--bias/--no-bias", help="Add a bias.")]
LayoutOption = Annotated[
    str, typer.Option(help="linear: weights (N, K) as nn.Linear keeps them; matmul: weights (K, N).")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; default torch's.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")]


def dtype(text: str) -> torch.dtype:
    if text.lower() not in DTYPES:
        raise ArgumentError(f"--dtype is {text!r}; expected f32, bf16 or f16")
    return DTYPES[text.lower()]


def activation(text: str) -> str:
    if text not in ACTIVATIONS:
        raise ArgumentError(f"--activation is {text!r}; expected one of {', '.join(ACTIVATIONS)}")
    return text


def layout(text: str) -> str:
    if text not in ("linear", "matmul"):
        raise ArgumentError(f"--layout is {text!r}; expected linear or matmul")
    return text


def shapes(
    lists: str, m: int | None, n: int | None, k: int | None, *, smallest: int = 1
) -> tuple[Shape, ...]:
    """The one problem of m, n, k, or the lists."""
    sizes = (m, n, k)
    if all(size is None for size in sizes):
        return named(lists)
    if m is None or n is None or k is None:
        missing = [name for name, size in zip("mnk", sizes, strict=True) if size is None]
        raise ArgumentError(f"--{' and --'.join(missing)} missing; give --m, --n and --k, or --shapes")
    if min(m, n, k) < smallest:
        raise ArgumentError(f"m, n, k are {m}, {n}, {k}; expected {smallest} or more to be measured")
    return (Shape("given", m, n, k),)


def output_file(path: Path | None) -> Path | None:
    """Refuses a file that cannot be written before an hour of measuring, not after it."""
    if path is not None:
        folder = path.absolute().parent
        if not folder.is_dir():
            raise ArgumentError(f"{path}: there is no directory {folder}; create it first")
        if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
            raise ArgumentError(f"{path} cannot be written; choose another file")
    return path


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """torch's thread count inside the block."""
    ambient = torch.get_num_threads()
    torch.set_num_threads(count or ambient)
    try:
        yield count or ambient
    finally:
        torch.set_num_threads(ambient)


def progress_bar(console: Console) -> Progress:
    return Progress(
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )


def result_console() -> Console:
    """stdout; where that is no terminal but a file or a log, wide enough for every table."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def format_range(low: float, high: float) -> str:
    """Two durations in the unit of the second."""
    text, _, unit = format_seconds(high).partition(" ")
    scale = high / float(text)
    return f"{low / scale:.3g}–{text} {unit}"


def error_console() -> Console:
    """Progress and remarks go to stderr: stdout carries results alone."""
    return Console(stderr=True)
