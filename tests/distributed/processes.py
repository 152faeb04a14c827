"""Checks in several processes, joined over gloo. One start serves many checks: it takes seconds, a check none."""

from __future__ import annotations

import importlib
import json
import os
import traceback
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

_TIMEOUT = timedelta(seconds=120)


def run(world: int, checks: Iterable[str], directory: Path) -> dict[str, str]:
    """Runs functions of one argument, the mesh, in `world` processes.

    Args:
        checks: ``module:function``, each.
        directory: an empty one, for files.

    Returns:
        What went wrong, by check; "" for nothing.
    """
    checks = list(checks)
    torch.multiprocessing.spawn(_work, (world, checks, str(directory)), nprocs=world)
    found = dict.fromkeys(checks, "")
    for rank in range(world):
        told = json.loads((directory / f"{rank}.json").read_text(encoding="utf-8"))
        for check in checks:
            if told[check]:
                found[check] += f"process {rank} of {world}:\n{told[check]}\n"
    return found


def _work(rank: int, world: int, checks: list[str], directory: str) -> None:
    os.environ["TILEWRIGHT_CACHE_DIR"] = f"{directory}/cache-{rank}"
    torch.set_num_threads(1)
    # A file in place of a port: it cannot be in use already.
    joining = f"file://{directory}/joining"
    dist.init_process_group("gloo", init_method=joining, rank=rank, world_size=world, timeout=_TIMEOUT)
    mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
    told = dict.fromkeys(checks, "not reached: another check failed before")
    for check in checks:
        module, _, name = check.partition(":")
        torch.manual_seed(20240601)
        problem = ""
        try:
            getattr(importlib.import_module(module), name)(mesh)
        except Exception:
            problem = traceback.format_exc()
        told[check] = problem
        # Where one process failed the others may be elsewhere in the program: none goes on to the next check.
        failed = torch.tensor(float(bool(problem)))
        try:
            dist.all_reduce(failed)
        except Exception:
            told[check] += traceback.format_exc()
            break
        if failed:
            break
    Path(f"{directory}/{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    dist.destroy_process_group()
