"""Draws a report on models: how many times faster than eager torch, everybody. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.benchmark.contenders import COMPILED
from tilewright.benchmark.models.contenders import (
    ACCELERATED,
    ACCELERATED_TF32,
    AUTOTUNED,
    BACKEND,
    BACKEND_FROZEN,
    EAGER,
    EAGER_LAST,
    FROZEN,
    RUNTIME,
)
from tilewright.benchmark.plot import use_quiet_style
from tilewright.benchmark.results import Report
from tilewright.explain import format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, theirs in greys, blues and purples, ours in reds and oranges.
COLOURS = {
    EAGER: "#BBBBBB",
    EAGER_LAST: "#777777",
    COMPILED: "#CC79A7",
    FROZEN: "#9A4B78",
    AUTOTUNED: "#5E2A4D",
    RUNTIME: "#56B4E9",
    ACCELERATED: "#D55E00",
    ACCELERATED_TF32: "#E6A0C4",
    BACKEND: "#E69F00",
    BACKEND_FROZEN: "#F0C75E",
}
_PER_ROW = 6


def plot_models(report: Report, path: Path) -> None:
    """Writes a PNG (or whatever the suffix says): bars of speed-up over eager's better format, rows of models."""
    plt = use_quiet_style()
    shapes = range(len(report.shapes))
    rows = [shapes[start : start + _PER_ROW] for start in shapes[::_PER_ROW]]
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(13, 0.9 + 3.2 * len(rows)), layout="constrained", squeeze=False
    )
    for row, places in zip(axes[:, 0], rows, strict=True):
        draw_speedups(row, report, places)
    handles = {
        label: handle
        for row in axes[:, 0]
        for handle, label in zip(*row.get_legend_handles_labels(), strict=True)
    }
    order = [name for name in COLOURS if name in handles]
    figure.legend(
        [handles[name] for name in order], order, loc="outside lower center", ncols=min(5, len(order))
    )
    environment = report.environment
    figure.suptitle(
        f"Models in inference, {environment['device']} ({environment['arch']}, {environment['threads']} threads), "
        f"torch {environment['versions']['torch']}: speed-up over {report.baseline}, medians",
        x=0.01,
        ha="left",
        fontsize=10,
        color="#444444",
    )
    figure.savefig(path)
    plt.close(figure)


def draw_speedups(axes: Axes, report: Report, places: range) -> None:
    """A group of bars for each of these shapes; above each bar the median itself."""
    results = [report.shapes[place] for place in places]
    present = {entry.contender for result in report.shapes for entry in result.entries}
    names = [name for name in COLOURS if name in present]
    width = 0.86 / max(1, len(names))
    highest = 1.0
    for number, name in enumerate(names):
        at, heights, labels = [], [], []
        for place, result in enumerate(results):
            entry = result.entry(name)
            ratio = report.ratio(result, entry, best=False) if entry is not None else None
            if entry is not None and ratio is not None:
                at.append(place + (number - (len(names) - 1) / 2) * width)
                heights.append(ratio)
                labels.append(format_seconds(entry.p50))
        highest = max([highest, *heights])
        bars = axes.bar(at, heights, width=0.93 * width, color=COLOURS[name], label=name)
        axes.bar_label(bars, labels, fontsize=6, padding=2, rotation=90)
    axes.axhline(1.0, color="black", linewidth=0.9, zorder=0.5)
    axes.set_xticks(range(len(results)), [str(result.shape) for result in results])
    axes.set_xlim(-0.5, _PER_ROW - 0.5 if len(report.shapes) > _PER_ROW else len(results) - 0.5)
    axes.set_ylim(0, 1.28 * highest)  # room for the labels
    axes.set_ylabel("× faster (above 1)")
    axes.grid(axis="x", visible=False)
