"""The command line's tests need its extras; without them there is no command line to test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A store that only this test writes to."""
    from tilewright import dispatch
    from tilewright.tuner import device, probe

    # Tuning would measure the device's rates first, for seconds; estimates serve here.
    monkeypatch.setattr(probe, "measure", lambda spec, index=0: spec)
    folder = tmp_path / "cache"
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(folder))
    device.forget()
    dispatch.forget()
    return folder


@pytest.fixture
def invoke(own_store: Path) -> Callable[..., Any]:
    """``invoke("bench", "matmul", …)`` runs the command in this process; the result has exit_code and output."""
    from typer.testing import CliRunner

    from tilewright.cli.app import app

    # Wide, so that no message is broken over lines.
    runner = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])
