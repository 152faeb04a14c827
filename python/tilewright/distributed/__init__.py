"""The operations on several devices: how torch may shard them, wherever their operands are `DTensor`.

torch learns the rules as soon as anybody imports ``torch.distributed.tensor``. With them ``parallelize_module``
(``ColwiseParallel``, ``RowwiseParallel``) splits models of `tilewright.nn` layers as it splits torch's, and operands
placed with ``distribute_tensor`` are multiplied and convolved where they lie, forward and backward. The rules are in
`tilewright.distributed.sharding`. Data parallelism (DDP, ``fully_shard``) needs none: it computes on plain tensors.

A sum that is spread over devices (a row-parallel layer) is added up after the operation, so it fuses no activation:
with one, torch gathers the operands first. Put the activation into the column-parallel layer before, as is usual.
"""

from __future__ import annotations

import logging
from types import ModuleType

from tilewright.after_import import after_import

__all__: list[str] = []


def _register(_tensor: ModuleType) -> None:
    # The way in is experimental in torch: if a version closes it, its own DTensor must still be importable.
    try:
        from tilewright.distributed import sharding

        sharding.register()
    except Exception as error:
        logging.getLogger("tilewright").warning(
            "no sharding rules for DTensor with this version of torch: %s: %s", type(error).__name__, error
        )


after_import("torch.distributed.tensor", _register)
