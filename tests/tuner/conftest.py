from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tuner import fakes
from tilewright.kernels import registry
from tilewright.kernels.interface import BACKEND_NAMES
from tilewright.tuner import device, log, shipped


@pytest.fixture(autouse=True)
def private_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No test sees or writes the store of whoever runs it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(folder))
    monkeypatch.setattr(log, "_given", set())
    device.forget()
    shipped.table.cache_clear()
    yield folder
    device.forget()


Install = Callable[..., dict[str, fakes.Backend]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes fake backends the only ones that the registry knows for the fake operation."""

    def put(*backends: fakes.Backend) -> dict[str, fakes.Backend]:
        known = {backend.name: backend for backend in backends}
        names = tuple(name for name in BACKEND_NAMES if name in known)
        real_backends, real_backend = registry.backends, registry.backend
        monkeypatch.setattr(
            registry, "backends", lambda op: names if op == fakes.OPERATION else real_backends(op)
        )
        monkeypatch.setattr(
            registry,
            "backend",
            lambda op, name: known[name] if op == fakes.OPERATION else real_backend(op, name),
        )
        return known

    return put
