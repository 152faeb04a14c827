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

from tilewright.benchmark.conv2d.shapes import LISTS as CONV2D_LISTS
from tilewright.benchmark.conv2d.shapes import Conv2dShape, Padding, Pair
from tilewright.benchmark.matmul.shapes import LISTS as MATMUL_LISTS
from tilewright.benchmark.matmul.shapes import MatmulShape
from tilewright.benchmark.settings import DIRECTIONS
from tilewright.benchmark.shapes import named
from tilewright.errors import ArgumentError
from tilewright.explain import format_seconds
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.tuner import device as devices

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

_LISTS_HELP = "Published lists, comma-separated: {}, all. list@8: its shapes with 8 rows (images)."

# matmul
MatmulListsOption = Annotated[str, typer.Option("--shapes", help=_LISTS_HELP.format(", ".join(MATMUL_LISTS)))]
SizeOption = Annotated[
    int | None, typer.Option(min=0, help="One problem instead of a list: give m, n and k.")
]
LayoutOption = Annotated[
    str, typer.Option(help="linear: weights (N, K) as nn.Linear keeps them; matmul: weights (K, N).")
]

# conv2d
Conv2dListsOption = Annotated[str, typer.Option("--shapes", help=_LISTS_HELP.format(", ".join(CONV2D_LISTS)))]
ImageOption = Annotated[
    str, typer.Option("--shape", help="One problem instead of a list: the input as NxCxHxW.")
]
OutChannelsOption = Annotated[int | None, typer.Option(min=1, help="Channels of the output; default C.")]
KernelOption = Annotated[str, typer.Option(help="RxS, or one number for both.")]
StrideOption = Annotated[str, typer.Option(help="Rows x columns, or one number for both.")]
PaddingOption = Annotated[str, typer.Option(help="Rows x columns on either side, one number, or same.")]
DilationOption = Annotated[str, typer.Option(help="Rows x columns, or one number for both.")]
GroupsOption = Annotated[int, typer.Option(min=1, help="Groups of channels.")]
FormatOption = Annotated[str, typer.Option("--layout", help="channels_last or nchw, of input and weight.")]
ResidualOption = Annotated[bool, typer.Option("--residual/--no-residual", help="Add a tensor like y.")]
PassOption = Annotated[str, typer.Option("--pass", help=f"{', '.join(DIRECTIONS)}.")]

# both
DtypeOption = Annotated[str, typer.Option(help="f32, bf16 or f16.")]
ActivationOption = Annotated[str, typer.Option(help=f"{', '.join(ACTIVATIONS)}.")]
BiasOption = Annotated[bool, typer.Option("--bias/--no-bias", help="Add a bias.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
AnyDeviceOption = Annotated[
    str, typer.Option(help=f"cpu, cuda, or by data sheet: {', '.join(devices.BUILTIN)}.")
]
PrecisionOption = Annotated[
    str, typer.Option(help="fp32 on GPUs: ieee or tf32; on CPUs tf32 admits Winograd's convolution.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; default torch's.")]
PackedOption = Annotated[
    bool, typer.Option("--packed", help="Also for packed weights, those of layers of tilewright.nn.")
]
TuneBudgetOption = Annotated[float, typer.Option("--budget-s", min=0.01, help="Seconds per problem.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")]
PrintJsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

# bench
TuneOption = Annotated[bool, typer.Option("--tune", help="Tune every shape first.")]
TuneFirstBudgetOption = Annotated[float, typer.Option(min=0.01, help="Seconds of tuning per shape.")]
RoundsBudgetOption = Annotated[
    float, typer.Option("--budget-s", min=0.0, help="Seconds of rounds per shape.")
]
CompileBudgetOption = Annotated[
    float, typer.Option(min=0.0, help="Seconds that torch.compile may take in all; 0 leaves it out.")
]
CsvOption = Annotated[
    Path | None, typer.Option("--csv", help="Also write a line per measurement to this file.")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Also draw a roofline and speed-ups (.png, .svg).")
]


def dtype(text: str) -> torch.dtype:
    if text.lower() not in DTYPES:
        raise ArgumentError(f"--dtype is {text!r}; expected f32, bf16 or f16")
    return DTYPES[text.lower()]


def activation(text: str) -> str:
    return one_of("--activation", text, *ACTIVATIONS)


def one_of(option: str, text: str, *expected: str) -> str:
    """Refuses what is not among the values of an option."""
    if text not in expected:
        listed = " or ".join(expected) if len(expected) < 3 else f"one of {', '.join(expected)}"
        raise ArgumentError(f"{option} is {text!r}; expected {listed}")
    return text


def device(text: str) -> str:
    """A device that things can be measured on, with an index or without."""
    one_of("--device", text.partition(":")[0], "cpu", "cuda")
    return text


def precision(text: str) -> str:
    return one_of("--precision", text, "ieee", "tf32")


def matmul_shapes(
    lists: str, m: int | None, n: int | None, k: int | None, *, smallest: int = 1
) -> tuple[MatmulShape, ...]:
    """The one problem of m, n, k, or the lists."""
    sizes = (m, n, k)
    if all(size is None for size in sizes):
        return named(lists, MATMUL_LISTS)
    if m is None or n is None or k is None:
        missing = [name for name, size in zip("mnk", sizes, strict=True) if size is None]
        raise ArgumentError(f"--{' and --'.join(missing)} missing; give --m, --n and --k, or --shapes")
    if min(m, n, k) < smallest:
        raise ArgumentError(f"m, n, k are {m}, {n}, {k}; expected {smallest} or more to be measured")
    return (MatmulShape("given", m, n, k),)


def conv2d_shapes(
    lists: str,
    image: str,
    out_channels: int | None,
    kernel: str,
    stride: str,
    padding: str,
    dilation: str,
    groups: int,
    *,
    smallest: int = 1,
) -> tuple[Conv2dShape, ...]:
    """The one problem of an image (NxCxHxW) and so on, or the lists where there is no image."""
    if not image:
        return named(lists, CONV2D_LISTS)
    n, c, h, w = _numbers("--shape", image, 4, smallest, "NxCxHxW")
    same: Padding = "same"
    shape = Conv2dShape(
        "given",
        n,
        c,
        h,
        w,
        c if out_channels is None else out_channels,
        _pair("--kernel", kernel, 1),
        _pair("--stride", stride, 1),
        same if padding == "same" else _pair("--padding", padding, 0),
        _pair("--dilation", dilation, 1),
        groups,
    )
    if shape.c % groups or shape.k % groups:
        raise ArgumentError(
            f"--groups is {groups}, of {shape.c} input and {shape.k} output channels; expected a divisor of both"
        )
    if shape.padding == "same" and shape.stride != (1, 1):
        raise ArgumentError(f"--padding is same and --stride {stride}; torch pads so at stride 1 alone")
    if min(shape.out_size) < 1:
        raise ArgumentError(
            f"{shape} has an empty output of {shape.out_size}; pad it or choose a smaller kernel"
        )
    return (shape,)


def _pair(option: str, text: str, least: int) -> Pair:
    numbers = _numbers(option, text, 2 if "x" in text else 1, least, "a number, or two as 1x2")
    return numbers[0], numbers[-1]


def _numbers(option: str, text: str, count: int, least: int, expected: str) -> tuple[int, ...]:
    words = text.split("x")
    if len(words) != count or not all(word.isascii() and word.isdigit() for word in words):
        raise ArgumentError(f"{option} is {text!r}; expected {expected}")
    numbers = tuple(map(int, words))
    if min(numbers) < least:
        raise ArgumentError(f"{option} is {text!r}; expected {expected}, of {least} or more")
    return numbers


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
