"""Split layers: every process computes a part of the hidden units of each block, on whole batches.

    x ── up, split by columns, relu fused ──┬── down, split by rows ──(sum over processes)── y
         (64 → 512 / processes)                  (512 / processes → 64)

torchrun --nproc-per-node 2 examples/distributed/tensor_parallel.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import tilewright
from tilewright.examples.digits import load_data
from tilewright.examples.distributed.processes import losses, optimize, process_group, prove, steps_argument
from tilewright.examples.training import seeded


class Block(nn.Module):
    """``down(relu(up(x)))``: the activation is the first layer's, as the second is summed over processes."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.up = tilewright.nn.Linear(inputs, hidden, activation="relu")
        self.down = tilewright.nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x))
        return y


def make() -> nn.Sequential:
    return nn.Sequential(Block(64, 512, 64), Block(64, 512, 10))


def main(arguments: Sequence[str] | None = None) -> int:
    steps = steps_argument(__doc__, arguments)
    with process_group() as (_, processes):
        data = load_data()
        single, net = seeded(make), seeded(make)
        alone = losses(single, optimize(single.parameters()), data, steps)
        mesh = init_device_mesh("cpu", (processes,))
        for block in net:
            parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
        together = losses(net, optimize(net.parameters()), data, steps)
        return prove("tensor parallel", (single, alone), (net, together), data)


if __name__ == "__main__":
    sys.exit(main())
