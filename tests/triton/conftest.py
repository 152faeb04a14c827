"""Interpreting and compiling exclude each other in one process: Triton decides when it reads a kernel.

``TRITON_INTERPRET=1 pytest tests/triton/interpreter`` runs the kernels; everything else here compiles them
or needs neither, and leaves that folder out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.triton.recorder import Recorder

if os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["test_*.py"]
else:
    collect_ignore = ["interpreter"]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Recorder:
    """A stand-in for the driver, which records."""
    from tests.triton.recorder import Recorder
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    recorder = Recorder()
    run = JITFunction.run

    def counting(self: Any, *args: Any, **options: Any) -> Any:
        recorder.jit_calls += 1
        return run(self, *args, **options)

    monkeypatch.setattr(JITFunction, "run", counting)
    # A property of the class in some versions of Triton, an attribute of the object in others.
    holder = type(driver) if hasattr(type(driver), "active") else driver
    monkeypatch.setattr(holder, "active", recorder)
    return recorder
