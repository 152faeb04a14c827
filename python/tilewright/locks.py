"""A lock that survives a fork."""

from __future__ import annotations

import os
import threading


class RenewedLock:
    """A re-entrant lock, ``with lock.current:``, which a forked child finds free.

    Whatever thread of the parent held it when the process was forked is not there to let go of it.
    """

    __slots__ = ("current",)

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.current = threading.RLock()
