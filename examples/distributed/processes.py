"""What the examples share: joining the processes, training on a share of each batch, and the proof."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
import torch.distributed as dist
from torch import nn

from tilewright.examples.digits import Data
from tilewright.examples.training import BATCH, batches, training_step

TOLERANCE = 1e-5
"""Between losses of networks that differ by the order of their sums alone."""


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """(rank, number of processes) of those that torchrun started, joined over gloo; (0, 1) without it."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def steps_argument(description: str | None, arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=44, help="training steps, of 64 images each")
    steps: int = parser.parse_args(arguments).steps
    return steps


def optimize(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Slow enough that a difference in rounding stays one: what learns fast enlarges it with every step."""
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def losses(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    steps: int,
    share: tuple[int, int] = (0, 1),
) -> list[float]:
    """The loss of each step over the whole batch.

    Args:
        share: (rank, number of processes) that split each batch among them; the losses are their means.
    """
    rank, processes = share
    epochs = -(-steps // (len(data.train_x) // BATCH))
    found = []
    for batch in islice(batches(len(data.train_x), epochs), steps):
        chosen = batch[rank::processes]
        loss = training_step(model, optimizer, data.train_x[chosen], data.train_y[chosen])
        if processes > 1:
            dist.all_reduce(loss)
        found.append(loss.item() / processes)
    return found


def prove(
    name: str,
    alone: tuple[nn.Module, list[float]],
    together: tuple[nn.Module, list[float]],
    data: Data,
) -> int:
    """Compares losses, and the trained networks in inference; says so once. Returns 1 if they are not the same."""
    gap = max(abs(a - b) for a, b in zip(alone[1], together[1], strict=True))
    outputs = []
    for model, _ in (alone, together):
        model.eval()
        with torch.no_grad():
            # Twice: a layer packs its weight in the first call, where it may, and reads what it packed in the second.
            outputs += [model(data.test_x) for _ in range(2)]
    distance = max(float((outputs[0] - other).abs().max()) for other in outputs[1:])
    right = float((outputs[-1].argmax(1) == data.test_y).float().mean())
    if dist.get_rank() == 0:
        first, last = together[1][0], together[1][-1]
        where = "1 process" if dist.get_world_size() == 1 else f"{dist.get_world_size()} processes"
        print(
            f"{name} in {where}: loss {first:.4f} → {last:.4f} in {len(together[1])} steps, "
            f"{gap:.1e} from a single process's at most; trained outputs {distance:.1e}; test accuracy {right:.1%}"
        )
    return 0 if gap <= TOLERANCE and distance <= 100 * TOLERANCE else 1
