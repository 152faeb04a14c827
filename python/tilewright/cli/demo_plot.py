"""The demo's picture: the loss curves on top of each other, and how much faster each model runs. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from tilewright.benchmark.models.plot import draw_speedups
from tilewright.benchmark.plot import use_quiet_style
from tilewright.benchmark.results import Report
from tilewright.demo import Demo
from tilewright.examples.loss_curves import draw_losses


def plot_demo(found: Demo, report: Report, path: Path) -> None:
    """Writes the picture."""
    plt = use_quiet_style()
    figure, (losses, speedups) = plt.subplots(
        1, 2, figsize=(13, 4.6), width_ratios=(1, 1.7), layout="constrained"
    )
    draw_losses(losses, found.ours, found.theirs)
    draw_speedups(speedups, report, range(len(report.shapes)))
    speedups.set_title(f"Inference: speed-up over {report.baseline}, medians")
    speedups.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
    environment = report.environment
    figure.suptitle(
        f"A CNN on handwritten digits, and ResNet-18 at 224×224; fp32, {environment['device']} "
        f"({environment['arch']}, {environment['threads']} threads), torch {environment['versions']['torch']}",
        x=0.01,
        ha="left",
        fontsize=10,
        color="#444444",
    )
    figure.savefig(path)
    plt.close(figure)
