"""Data parallel: every process holds the network and sees a part of each batch; gradients are averaged.

torchrun --nproc-per-node 2 examples/distributed/ddp.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch.nn.parallel import DistributedDataParallel

from tilewright.examples.distributed.processes import losses, optimize, process_group, prove, steps_argument
from tilewright.examples.train_cnn import EXAMPLE
from tilewright.examples.training import seeded


def main(arguments: Sequence[str] | None = None) -> int:
    steps = steps_argument(__doc__, arguments)
    with process_group() as share:
        data = EXAMPLE.data()
        single, net = seeded(EXAMPLE.ours), seeded(EXAMPLE.ours)
        alone = losses(single, optimize(single.parameters()), data, steps)
        parallel = DistributedDataParallel(net)
        together = losses(parallel, optimize(parallel.parameters()), data, steps, share)
        return prove("DDP", (single, alone), (parallel, together), data)


if __name__ == "__main__":
    sys.exit(main())
