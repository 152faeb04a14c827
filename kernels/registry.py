"""Finds operations and their backends by folder, and imports each only when it is first asked for.

A kernel folder is found by being there: ``kernels/<operation>/<backend>`` (a module or a package whose name is
in ``BACKEND_NAMES`` or ``TEST_BACKEND_NAMES``) that defines ``BACKEND``. Importing Triton takes half a second, so
nothing here is imported before a choice or a test needs it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from tilewright.errors import ArgumentError
from tilewright.kernels.interface import BACKEND_NAMES, TEST_BACKEND_NAMES, Backend

_ROOT = Path(__file__).parent


@cache
def operations() -> tuple[str, ...]:
    """Names of all operations: the folders here that hold a ``problem.py``."""
    return tuple(sorted(path.parent.name for path in _ROOT.glob("*/problem.py")))


@cache
def backends(operation: str) -> tuple[str, ...]:
    """Names of the backends that a choice is made among, in the order of ``BACKEND_NAMES``."""
    found = _modules(operation)
    return tuple(name for name in BACKEND_NAMES if name in found)


@cache
def test_backends(operation: str) -> tuple[str, ...]:
    """Names of those that run only where they are asked for."""
    found = _modules(operation)
    return tuple(name for name in TEST_BACKEND_NAMES if name in found)


@cache
def backend(operation: str, name: str) -> Backend:
    """The backend `name` of `operation`."""
    if name not in backends(operation) and name not in test_backends(operation):
        raise ArgumentError(
            f"{operation}: backend is {name!r}; expected one of {', '.join(backends(operation))}"
        )
    module = importlib.import_module(f"tilewright.kernels.{operation}.{name}")
    found: Backend = module.BACKEND
    return found


def _modules(operation: str) -> set[str]:
    if operation not in operations():
        raise ArgumentError(f"operation is {operation!r}; expected one of {', '.join(operations())}")
    return {module.name for module in pkgutil.iter_modules([str(_ROOT / operation)])}
