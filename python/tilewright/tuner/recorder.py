"""Collects the problems that a function meets, so that they can be tuned.

While a `recording` is open anywhere in the process, every problem that the dispatcher resolves goes into it,
whatever the thread: autograd runs the backward pass on threads of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Recorded = tuple[str, Any]
"""(operation, problem)"""

_open: list[dict[Recorded, None]] = []
_lock = threading.Lock()


def record(operation: str, problem: Any) -> None:
    """Called by the dispatcher for every problem that it resolves."""
    if _open:
        with _lock:
            for collection in _open:
                collection[operation, problem] = None


@contextmanager
def recording() -> Iterator[dict[Recorded, None]]:
    """Yields a dict whose keys are the distinct (operation, problem) pairs resolved inside, in order."""
    collection: dict[Recorded, None] = {}
    with _lock:
        _open.append(collection)
    try:
        yield collection
    finally:
        with _lock:
            # By identity: two recordings with equal contents are different ones.
            _open[:] = [other for other in _open if other is not collection]
