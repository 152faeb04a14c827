"""Sharded parameters: every process keeps a part of each, gathers a layer whole while it runs, and sees a part of each
batch.

torchrun --nproc-per-node 2 examples/distributed/fsdp.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tilewright.examples.distributed.processes import losses, optimize, process_group, prove, steps_argument
from tilewright.examples.train_cnn import EXAMPLE
from tilewright.examples.training import seeded
from tilewright.nn import PackedLayer


def main(arguments: Sequence[str] | None = None) -> int:
    steps = steps_argument(__doc__, arguments)
    with process_group() as share:
        data = EXAMPLE.data()
        single, net = seeded(EXAMPLE.ours), seeded(EXAMPLE.ours)
        alone = losses(single, optimize(single.parameters()), data, steps)
        mesh = init_device_mesh("cpu", (share[1],))
        for layer in net.children():
            if isinstance(layer, PackedLayer):
                fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)
        together = losses(net, optimize(net.parameters()), data, steps, share)
        return prove("FSDP", (single, alone), (net, together), data)


if __name__ == "__main__":
    sys.exit(main())
