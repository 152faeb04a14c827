"""Pruning a convolutional network on handwritten digits: what each pattern costs in accuracy.

    python examples/prune_digits.py               90 % unstructured, 2:4, 90 % in blocks of 4×4
    python examples/prune_digits.py --epochs 3    shorter

A dense network is trained, then pruned three times: gradually or at once, learning from the dense one's answers
meanwhile. The first convolution and the last layer, which are small, stay dense.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tilewright.errors import Error
from tilewright.examples.digits import Data, load_data
from tilewright.examples.train_cnn import Cnn, optimize
from tilewright.examples.training import (
    BATCH,
    SMOOTHING,
    Advance,
    accuracy,
    batches,
    progress_bar,
    seeded,
    train,
)
from tilewright.sparse import Cubic, Pruning, distill_loss, prune
from tilewright.tables import text_table

LARGEST_LOSS = 0.005
"""Of accuracy: half a point."""
DENSE_LAYERS = ("conv1.weight", "head.weight")


@dataclass(frozen=True, slots=True)
class Case:
    """A pattern, and how much of it is removed; None if the pattern says so itself."""

    pattern: str
    amount: float | None = None


CASES = (Case("unstructured", 0.9), Case("2:4"), Case("block(4, 4)", 0.9))


def prune_and_recover(
    dense: Cnn, data: Data, case: Case, epochs: int, *, seed: int = 0, advance: Advance = lambda: None
) -> tuple[Cnn, Pruning]:
    """A pruned copy of the network, trained for so many epochs: in the first third it loses its weights by the cubic
    schedule, wherever in the network they count least, then it recovers. Left in inference mode."""
    model = copy.deepcopy(dense)
    steps = len(data.train_x) // BATCH
    schedule = Cubic(0, max(1, steps * epochs // 3), every=10)
    pruning = prune(model, case.pattern, case.amount, scope="global", skip=DENSE_LAYERS, schedule=schedule)
    optimizer = optimize(model.parameters())
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * epochs)

    def task_loss(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(scores, target, label_smoothing=SMOOTHING)

    model.train()
    with pruning.attach(optimizer):
        for step, chosen in enumerate(batches(len(data.train_x), epochs, seed=seed), start=1):
            x, y = data.train_x[chosen], data.train_y[chosen]
            with torch.no_grad():
                wanted = dense(x)
            optimizer.zero_grad()
            distill_loss(model(x), wanted, y, task_loss=task_loss).backward()
            optimizer.step()
            decay.step()
            if step % steps == 0:
                advance()
    return model.eval(), pruning


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 if a pruned network recognises half a point fewer than the dense one."""
    parser = argparse.ArgumentParser(description="Prunes a CNN on handwritten digits by three patterns.")
    parser.add_argument(
        "--epochs", type=int, default=10, help="of the dense network; each pruned one takes twice as many"
    )
    parser.add_argument("--seed", type=int, default=0, help="of parameters, split and order of images")
    given = parser.parse_args(arguments)
    if given.epochs < 1:
        parser.error(f"--epochs is {given.epochs}; expected 1 or more")
    try:
        data = load_data(given.seed).images()
        with progress_bar(True) as bar:
            task = bar.add_task("dense", total=(1 + 2 * len(CASES)) * given.epochs)
            dense = seeded(Cnn, given.seed)
            reference = train(
                dense, data, optimize, given.epochs, advance=lambda: bar.advance(task), seed=given.seed
            ).accuracy
            pruned = []
            for case in CASES:
                bar.update(task, description=case.pattern)
                pruned.append(
                    prune_and_recover(
                        dense,
                        data,
                        case,
                        2 * given.epochs,
                        seed=given.seed,
                        advance=lambda: bar.advance(task),
                    )
                )
    except Error as error:
        parser.exit(2, f"{error}\n")
    rows, worst = [("dense", "0.00%", f"{reference:.2%}", "")], 0.0
    for model, pruning in pruned:
        found = accuracy(model, data)
        rows.append(
            (
                pruning.pattern,
                f"{pruning.report.sparsity:.2%}",
                f"{found:.2%}",
                f"{100 * (found - reference):+.2f} points",
            )
        )
        worst = max(worst, reference - found)
    print(text_table(("pattern", "zeros", "test accuracy", ""), rows, right=("zeros", "test accuracy")))
    if worst > LARGEST_LOSS:
        print(f"{100 * worst:.2f} points of accuracy were lost; expected at most {100 * LARGEST_LOSS}")
    return int(worst > LARGEST_LOSS)


if __name__ == "__main__":
    sys.exit(main())
