"""The demo's picture: the loss curves on top of each other, latency, and speed-up. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.benchmark.plot import use_quiet_style
from tilewright.demo import COMPILED, EAGER, OUR_KERNELS, OURS, Demo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {EAGER: "#999999", COMPILED: "#CC79A7", OURS: "#D55E00", OUR_KERNELS: "#E69F00"}


def plot_demo(found: Demo, environment: dict[str, Any], path: Path) -> None:
    """Writes the picture."""
    plt = use_quiet_style()
    figure, (losses, latency, speedup) = plt.subplots(
        1, 3, figsize=(14, 4.4), width_ratios=(1, 1.15, 1.15), layout="constrained"
    )
    _draw_losses(losses, found)
    names = [name for name in _COLOURS if any(row.name == name for row in found.rows)]
    batches = list(dict.fromkeys(row.batch for row in found.rows))
    _draw_latency(latency, found, names, batches)
    _draw_speedup(speedup, found, names, batches)
    figure.suptitle(
        f"MLP 64 → 512 → 128 → 10 on handwritten digits, fp32, {environment['device']} "
        f"({environment['arch']}, {environment['threads']} threads), torch {environment['versions']['torch']}",
        x=0.01,
        ha="left",
        fontsize=10,
        color="#444444",
    )
    figure.savefig(path)
    plt.close(figure)


def _draw_losses(axes: Axes, found: Demo) -> None:
    for name, training, width in ((EAGER, found.theirs, 5.0), (OURS, found.ours, 1.4)):
        steps = range(1, len(training.losses) + 1)
        colour, own = _COLOURS[name], 0.35 if name == OURS else 0.0
        axes.plot(steps, training.losses, color=colour, linewidth=0.5, alpha=own)
        axes.plot(
            *_smooth(training.losses),
            color=colour,
            linewidth=width,
            alpha=0.9 if name == OURS else 0.6,
            solid_capstyle="butt",
            label=f"{name}, test accuracy {training.accuracy:.1%}",
        )
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy")
    axes.set_title(f"Training: losses differ by at most {found.largest_gap:.0e}")
    axes.legend(loc="upper right")


def _smooth(losses: list[float], width: int = 20) -> tuple[list[float], list[float]]:
    """Means over `width` steps, at the middle of each."""
    starts = range(0, len(losses) - width + 1, width)
    return [start + width / 2 for start in starts], [sum(losses[s : s + width]) / width for s in starts]


def _draw_latency(axes: Axes, found: Demo, names: list[str], batches: list[int]) -> None:
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        rows = {row.batch: row for row in found.rows if row.name == name}
        at = [i for i, batch in enumerate(batches) if batch in rows]
        timings = [rows[batches[i]].timing for i in at]
        p50 = [timing.p50 * 1e6 for timing in timings]
        spread = [
            [middle - timing.p20 * 1e6 for middle, timing in zip(p50, timings, strict=True)],
            [timing.p80 * 1e6 - middle for middle, timing in zip(p50, timings, strict=True)],
        ]
        axes.bar(
            [i + (index - (len(names) - 1) / 2) * width for i in at],
            p50,
            width=width * 0.92,
            yerr=spread,
            error_kw={"linewidth": 0.8, "ecolor": "#333333"},
            color=_COLOURS[name],
            label=name,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 4)  # room for the legend
    axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axes.set_xlabel("batch size")
    axes.set_ylabel("µs per forward pass")
    axes.set_title("Latency: medians, whiskers from p20 to p80")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", ncols=2)


def _draw_speedup(axes: Axes, found: Demo, names: list[str], batches: list[int]) -> None:
    shown = [name for name in names if name != EAGER]
    width = 0.8 / max(len(shown), 1)
    highest = 1.0
    for index, name in enumerate(shown):
        ratios = {row.batch: row.speedup for row in found.rows if row.name == name}
        at = [i for i, batch in enumerate(batches) if batch in ratios]
        heights = [ratios[batches[i]] for i in at]
        highest = max([highest, *heights])
        bars = axes.bar(
            [i + (index - (len(shown) - 1) / 2) * width for i in at],
            heights,
            width=width * 0.92,
            color=_COLOURS[name],
            label=name,
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=6, padding=1)
    axes.axhline(1.0, color="black", linewidth=0.9)
    axes.set_ylim(0, highest * 1.25)
    axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axes.set_xlabel("batch size")
    axes.set_ylabel("× eager torch (above 1 is faster)")
    axes.set_title("Speed-up over eager torch")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", ncols=2)
