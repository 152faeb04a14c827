"""Every check of `sharding_checks` and `training_checks`, in 2 and in 4 processes."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from tests.distributed import sharding_checks, training_checks
from tests.distributed.processes import run

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)

_CHECKS = [
    f"{module.__name__}:{name}"
    for module in (sharding_checks, training_checks)
    for name, check in inspect.getmembers(module, inspect.isfunction)
    if check.__module__ == module.__name__ and not name.startswith(("_", "assert_"))
]


# One test for all checks: spread over several workers of pytest-xdist, each would start the processes anew.
@pytest.mark.parametrize("world", [2, 4], ids="{} processes".format)
def test_every_check_in_processes(world: int, tmp_path: Path) -> None:
    assert len(_CHECKS) >= 18
    outcome = run(world, _CHECKS, tmp_path)
    wrong = "\n".join(f"{check}: {problem}" for check, problem in outcome.items() if problem)
    assert not wrong, wrong
