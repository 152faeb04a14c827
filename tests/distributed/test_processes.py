"""Every check of `sharding_checks` and `training_checks`, in 2 and in 4 processes."""

from __future__ import annotations

import inspect

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


@pytest.fixture(scope="module", params=(2, 4), ids="{} processes".format)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run(request.param, _CHECKS, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("check", _CHECKS, ids=lambda check: check.partition(":")[2])
def test_in_processes(outcome: dict[str, str], check: str) -> None:
    assert not outcome[check], outcome[check]
