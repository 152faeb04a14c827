"""Tables of a report: plain text for `print`, rich's for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> str:
    """The columns' names and the rows, each column as wide as its widest cell; those named in `right` end alike."""
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    aligned = [str.rjust if name in right else str.ljust for name in columns]
    return "\n".join(
        "  ".join(
            align(cell, width) for align, cell, width in zip(aligned, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def rich_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Collection[str] = (),
    dim: Collection[int] = (),
    below: Iterable[str] = (),
) -> Any:
    """The same as rich shows it, with the rows numbered in `dim` faded and lines of text below. Needs rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left")
    for index, row in enumerate(rows):
        table.add_row(*map(Text, row), style="dim" if index in dim else "")
    return Group(table, *map(Text, below))
