"""The examples of several processes, under torchrun at reduced size: their exit code says whether losses agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "tensor_parallel"])
def test_losses_are_those_of_a_single_process(repository: Path, name: str) -> None:
    program = repository / "examples" / "distributed" / f"{name}.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(program), "--steps", "6"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in 2 processes: loss" in done.stdout
    assert "in 6 steps" in done.stdout


def test_without_torchrun_it_is_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tilewright.examples.distributed import ddp

    monkeypatch.setattr(os, "environ", {**os.environ})
    assert ddp.main(["--steps", "2"]) == 0
    assert "DDP in 1 process: loss" in capsys.readouterr().out
    assert not torch.distributed.is_initialized()
