"""Training on the digits: the loop, and the comparison with eager torch that the examples print and draw."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import tilewright
from tilewright.errors import Error
from tilewright.examples.digits import Data, load_data

BATCH = 64
LEAST_ACCURACY = 0.97

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SMOOTHING = 0.1
"""Of the labels: with so few images, a network that is asked to be certain learns them by heart."""

LARGEST_GAP = {"f32": 0.02, "bf16": 0.1}
"""Of two loss curves that began alike. Each rounds in its own way, and training enlarges the difference."""

OURS, THEIRS = "tilewright", "torch eager"

Optimize = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Advance = Callable[[], None]
Model = TypeVar("Model", bound=nn.Module)


@dataclass(slots=True)
class Training:
    """The loss after every step, the accuracy on the test images at the end, and the seconds that it took."""

    losses: list[float]
    accuracy: float
    seconds: float

    def gap(self, other: Training) -> float:
        """The largest difference between the two loss curves."""
        return max(abs(a - b) for a, b in zip(self.losses, other.losses, strict=True))


def seeded(make: Callable[[], Model], seed: int = 0) -> Model:
    """What `make` returns; the same seed gives networks with the same layers the same parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def batches(count: int, epochs: int, batch: int = BATCH, seed: int = 0) -> Iterator[Tensor]:
    """Which images each step sees: `epochs` times all of them, in an order that depends on the seed alone.

    What does not fill a batch is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield from order[: count // batch * batch].split(batch)


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """One step on the cross-entropy, which it returns; under autocast where `dtype` is not float32."""
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
        loss = nn.functional.cross_entropy(model(x), y, label_smoothing=SMOOTHING)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def train(
    model: nn.Module,
    data: Data,
    optimize: Optimize,
    epochs: int,
    *,
    batch: int = BATCH,
    dtype: torch.dtype = torch.float32,
    advance: Advance = lambda: None,
    seed: int = 0,
) -> Training:
    """Trains the model and leaves it in inference mode.

    Args:
        optimize: makes the optimizer of the parameters.
        dtype: of autocast; parameters stay as they are.
        advance: called after each epoch.
        seed: of the order of the images.
    """
    model.train()
    optimizer = optimize(model.parameters())
    steps = len(data.train_x) // batch
    losses = []
    began = time.perf_counter()
    for step, chosen in enumerate(batches(len(data.train_x), epochs, batch, seed), start=1):
        loss = training_step(model, optimizer, data.train_x[chosen], data.train_y[chosen], dtype)
        losses.append(loss.item())
        if step % steps == 0:
            advance()
    seconds = time.perf_counter() - began
    model.eval()
    return Training(losses, accuracy(model, data), seconds)


def accuracy(call: Callable[[Tensor], Tensor], data: Data, batch: int | None = None) -> float:
    """The share of test images that are recognised, run through in batches of this size, or at once."""
    count = len(data.test_x)
    batch = batch or count
    right = 0
    with torch.inference_mode():
        for start in range(0, count, batch):
            # The last batch is filled up from the start, so that every call has the size that is claimed.
            index = torch.arange(start, start + batch) % count
            guesses = call(data.test_x[index]).argmax(1)
            fresh = min(batch, count - start)
            right += int((guesses == data.test_y[index])[:fresh].sum())
    return right / count


@dataclass(frozen=True, slots=True)
class Example:
    """A network in tilewright's layers, the same in torch's, with the same names of parameters; how to train them."""

    name: str
    ours: Callable[[], nn.Module]
    theirs: Callable[[], nn.Module]
    optimize: Optimize
    images: bool
    """Whether they take (N, 1, 8, 8), else (N, 64)."""
    epochs: int

    def data(self, seed: int = 0) -> Data:
        data = load_data(seed)
        return data.images() if self.images else data


def tune(example: Example, data: Data, dtype: torch.dtype, budget_s: float = 0.4) -> int:
    """Tunes what one step of training and an evaluation meet. Returns the number of problems."""
    model = seeded(example.ours)
    with tilewright.tuning(budget_s=budget_s, progress=True) as session:
        training_step(
            model, example.optimize(model.parameters()), data.train_x[:BATCH], data.train_y[:BATCH], dtype
        )
        accuracy(model.eval(), data)
    return len(session.report.results)


def compare(
    example: Example,
    data: Data,
    epochs: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Training, Training]:
    """Trains both networks from the same parameters, on the same images in the same order."""
    found = []
    with progress_bar(progress) as bar:
        for name, make in ((OURS, example.ours), (THEIRS, example.theirs)):
            task = bar.add_task(f"training through {name}", total=epochs)
            advance = partial(bar.advance, task)
            model = seeded(make, seed)
            found.append(
                train(model, data, example.optimize, epochs, dtype=dtype, advance=advance, seed=seed)
            )
    ours, theirs = found
    return ours, theirs


def main(example: Example, arguments: Sequence[str] | None = None) -> int:
    """The command line of an example. Returns 1 if it did not learn, or the curves differ."""
    parser = argparse.ArgumentParser(
        description=f"Trains the {example.name} on handwritten digits, and eager torch's."
    )
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32", help="bf16 trains under autocast")
    parser.add_argument("--epochs", type=int, default=example.epochs)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the parameters, the split and the order of images"
    )
    parser.add_argument("--tune", action="store_true", help="measure the kernels first; remembered")
    parser.add_argument("--out", type=Path, help="where the loss curves go, a .png")
    given = parser.parse_args(arguments)
    if given.epochs < 1:
        parser.error(f"--epochs is {given.epochs}; expected 1 or more")
    dtype = DTYPES[given.dtype]
    try:
        data = example.data(given.seed)
        if given.tune:
            print(f"tuned {tune(example, data, dtype)} problems on this machine; remembered")
        ours, theirs = compare(example, data, given.epochs, dtype, given.seed, progress=True)
    except Error as error:
        parser.exit(2, f"{error}\n")
    for name, training in ((OURS, ours), (THEIRS, theirs)):
        print(
            f"{name + ':':12} loss {training.losses[0]:.3f} → {training.losses[-1]:.4f}, test accuracy "
            f"{training.accuracy:.2%}, {len(training.losses)} steps of {training.seconds / len(training.losses):.2e} s"
        )
    gap = ours.gap(theirs)
    print(f"the two loss curves differ by at most {gap:.1e}")
    if given.out is not None:
        from tilewright.examples.loss_curves import plot_losses

        plot_losses(ours, theirs, f"{example.name} on handwritten digits, {given.dtype}", given.out)
        print(f"written: {given.out}")
    problems = []
    if ours.accuracy < LEAST_ACCURACY:
        problems.append(f"test accuracy is {ours.accuracy:.2%}; expected {LEAST_ACCURACY:.0%} or more")
    if not gap <= LARGEST_GAP[given.dtype]:
        problems.append(f"the loss curves differ by {gap:.2g}; expected at most {LARGEST_GAP[given.dtype]}")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def progress_bar(shown: bool) -> Any:
    """A bar per network on stderr, which disappears when all is done.

    Raises:
        Error: rich is not installed.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        raise Error(
            "the progress bar needs rich, which is not installed; pip install 'tilewright[cli]'"
        ) from None
    columns = BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)
