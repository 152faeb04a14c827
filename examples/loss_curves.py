"""Two loss curves, drawn. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.benchmark.plot import use_quiet_style
from tilewright.errors import Error
from tilewright.examples.training import OURS, THEIRS, Training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {OURS: "#D55E00", THEIRS: "#999999"}


def plot_losses(ours: Training, theirs: Training, title: str, path: Path) -> None:
    """Writes the picture: the curves on top of each other, and beside them how far they are apart.

    Raises:
        Error: matplotlib is not installed.
    """
    try:
        plt = use_quiet_style()
    except ImportError:
        raise Error(
            "the picture needs matplotlib, which is not installed; pip install 'tilewright[cli]'"
        ) from None
    figure, (losses, gaps) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    draw_losses(losses, ours, theirs)
    steps = range(1, len(ours.losses) + 1)
    gaps.plot(
        steps, [abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True)], color=_COLOURS[OURS]
    )
    gaps.set_yscale("log")
    gaps.set_xlabel("step")
    gaps.set_title("Difference of the two losses")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color="#444444")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def draw_losses(axes: Axes, ours: Training, theirs: Training) -> None:
    """Both curves: eager torch's as a broad band, ours as a line on it."""
    for name, training, width in ((THEIRS, theirs, 5.0), (OURS, ours, 1.4)):
        steps = range(1, len(training.losses) + 1)
        colour = _COLOURS[name]
        if name == OURS:
            axes.plot(steps, training.losses, color=colour, linewidth=0.5, alpha=0.35)
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
    axes.set_title(f"Training: losses differ by at most {ours.gap(theirs):.0e}")
    axes.legend(loc="upper right")


def _smooth(losses: list[float]) -> tuple[list[float], list[float]]:
    """Means over 20 steps (fewer where there are few), at the middle of each."""
    width = min(20, max(1, len(losses) // 4))
    starts = range(0, len(losses) - width + 1, width)
    return [start + width / 2 for start in starts], [sum(losses[s : s + width]) / width for s in starts]
