"""Draws a report: a roofline and bars of speed-up. Needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.benchmark.contenders import COMPILED
from tilewright.benchmark.results import OURS, PACKED, PACKED_TF32, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: distinct for colour-blind readers, too.
_GREY, _SKY, _BLUE, _PURPLE, _RED = "#999999", "#56B4E9", "#0072B2", "#CC79A7", "#D55E00"
_THEIRS = (_GREY, _SKY, _BLUE, "#004B75")
"""For torch's contenders, in the report's order; the last serves all further ones."""

COLOURS = {
    COMPILED: _PURPLE,
    OURS: _RED,
    PACKED: "#B2182B",
    PACKED_TF32: "#E6A0C4",
    f"{OURS} nchw": "#8C510A",
    f"{OURS} channels_last": "#8C510A",
    f"{OURS} cpu": "#E69F00",
    f"{OURS} triton": "#009E73",
    f"{OURS} cuda": "#F0E442",
    f"{OURS} aten": "#555555",
}
_MARKERS = {
    OURS: "D",
    PACKED: "P",
    PACKED_TF32: "X",
    f"{OURS} cpu": "^",
    f"{OURS} triton": "^",
    f"{OURS} cuda": "v",
    COMPILED: "s",
}
_MOST_BARS = 70


def use_quiet_style() -> Any:
    """matplotlib's pyplot without a display, with the style that all plots here share."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "figure.dpi": 150,
        }
    )
    return plt


def plot_report(report: Report, path: Path) -> None:
    """Writes a PNG (or whatever the suffix says) with the roofline on top and the speed-ups below."""
    plt = use_quiet_style()
    shapes = report.shapes[:_MOST_BARS]
    width = max(9.0, 2.5 + 0.24 * len(shapes))
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(width, 9), height_ratios=(1.15, 1), layout="constrained"
    )
    draw_roofline(top, report)
    draw_speedups(bottom, report)
    environment, settings = report.environment, report.settings
    figure.suptitle(
        f"{_what(settings)}, {settings['dtype']}, "
        f"{environment['device']} ({environment['arch']}, {_workers(environment)}), "
        f"torch {environment['versions']['torch']}",
        x=0.01,
        ha="left",
        fontsize=10,
        color="#444444",
    )
    figure.savefig(path)
    plt.close(figure)


def _what(settings: dict[str, Any]) -> str:
    """``conv2d + bias + relu``, or which gradient, and tilewright's layout."""
    words = [settings["operation"]]
    if settings["direction"] != "forward":
        words = [f"{settings['operation']}'s {settings['direction'].replace('_', ' ')}"]
    else:
        words += [name for name in ("bias", "residual") if settings[name]]
        words += [settings["activation"]] if settings["activation"] != "none" else []
    return f"{' + '.join(words)}, {settings['layout']}"


def _workers(environment: dict[str, Any]) -> str:
    if environment["device_kind"] == "cuda":
        return f"{environment['units']} SMs"
    return f"{environment['threads']} threads"


def draw_roofline(axes: Axes, report: Report) -> None:
    """FLOP/s over arithmetic intensity, log-log, under the peak and bandwidth that this run measured."""
    from matplotlib.ticker import NullFormatter

    flops, bandwidth = report.ceiling["flops"], report.ceiling["bandwidth"]
    intensities = [result.flops / result.bytes for result in report.shapes if result.flops]
    if not intensities:
        return
    ridge = flops / bandwidth
    low, high = min(*intensities, ridge) / 2, max(*intensities, ridge) * 2
    axes.plot(
        [low, ridge, high], [low * bandwidth / 1e9, flops / 1e9, flops / 1e9], color="black", linewidth=1.4
    )
    label = f"peak {flops / 1e12:.3g} TFLOP/s" if flops >= 1e12 else f"peak {flops / 1e9:.3g} GFLOP/s"
    axes.annotate(
        label, (high, flops / 1e9), ha="right", va="bottom", xytext=(0, 3), textcoords="offset points"
    )
    axes.annotate(
        f"{bandwidth / 1e9:.3g} GB/s",
        (low, low * bandwidth / 1e9),
        rotation=0,
        va="bottom",
        xytext=(0, 22),
        textcoords="offset points",
    )
    for name in _present(report):
        points = [
            (result.flops / result.bytes, entry.flops_per_second / 1e9)
            for result in report.shapes
            if result.flops and (entry := result.entry(name)) is not None
        ]
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            label=name,
            s=30 if name == OURS else 20,
            marker=_MARKERS.get(name, "o"),
            color=_colour(name, report),
            alpha=0.85,
            linewidths=0,
            zorder=3 if name == OURS else 2,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity, FLOP per byte that main memory must move")
    axes.set_ylabel("GFLOP/s")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("Roofline: lines are the peak and bandwidth measured in this run")
    axes.legend(loc="lower right", ncols=2)


_BARS = ((OURS, (_RED, _BLUE)), (PACKED, (None, _GREY)), (PACKED_TF32, (None, COLOURS[PACKED_TF32])))
"""Whose speed-up is drawn: over the baseline and over the best of torch, where there is a colour."""


def draw_speedups(axes: Axes, report: Report) -> None:
    """How many times faster than the eager call and than the best of torch; with a packed weight, than the best."""
    shapes = report.shapes[:_MOST_BARS]
    bars = []
    for contender, colours in _BARS:
        for best, colour, summary in zip((False, True), colours, report.summaries(contender), strict=False):
            if colour is not None:
                what = f"{contender.removeprefix(OURS)}, against".removeprefix(",").strip()
                label = f"{what} {summary.against}: geomean {summary.geomean:.2f}, p10 {summary.p10:.2f}, "
                bars.append((contender, best, colour, f"{label}worst {summary.worst:.2f}"))
    highest = 1.0
    for number, (contender, best, colour, label) in enumerate(bars):
        entries = [result.entry(contender) for result in shapes]
        ratios = [
            report.ratio(result, entry, best=best) if entry is not None else None
            for result, entry in zip(shapes, entries, strict=True)
        ]
        width = 0.8 / len(bars)
        places = [i + (number - (len(bars) - 1) / 2) * width for i in range(len(shapes))]
        heights = [math.nan if ratio is None else ratio for ratio in ratios]
        axes.bar(places, heights, width=0.95 * width, color=colour, label=label)
        highest = max([highest, *(ratio for ratio in ratios if ratio is not None)])
    axes.axhline(1.0, color="black", linewidth=0.9)
    axes.set_title("Speed-up of what tilewright chooses")
    axes.set_xticks(range(len(shapes)), [str(result.shape) for result in shapes], rotation=90, fontsize=6.5)
    axes.set_xlim(-0.7, len(shapes) - 0.3)
    axes.set_ylabel("× faster (above 1)")
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 1.3 * highest)  # room for the legend
    axes.legend(loc="upper left")


def _colour(name: str, report: Report) -> str:
    if name in COLOURS:
        return COLOURS[name]
    place = report.torch.index(name) if name in report.torch else len(_THEIRS)
    return _THEIRS[min(place, len(_THEIRS) - 1)]


def _present(report: Report) -> list[str]:
    """Torch's contenders first, then ours."""
    order = [*report.torch, *COLOURS]
    names = dict.fromkeys(entry.contender for result in report.shapes for entry in result.entries)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))
